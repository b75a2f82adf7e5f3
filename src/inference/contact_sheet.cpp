#include "inference/contact_sheet.h"

#include <algorithm>
#include <opencv2/core.hpp>
#include <utility>

#include "core/files.h"
#include "inference/drawing.h"

namespace tessera::inference {

namespace {

constexpr int kCellWidth = 300;
constexpr int kCellPicture = 168;
constexpr int kCellMargin = 12;
constexpr int kCellLineHeight = 16;
constexpr double kCellFont = 0.4;

struct DrawnLine {
  std::string text;
  cv::Scalar colour;
};

cv::Scalar colour_of(SheetLine::Mark mark) {
  switch (mark) {
    case SheetLine::Mark::kRight:
      return {40, 130, 30};
    case SheetLine::Mark::kWrong:
      return {50, 40, 190};
    case SheetLine::Mark::kNone:
      return {70, 70, 70};
  }
  return {70, 70, 70};
}

std::vector<DrawnLine> wrapped(const std::vector<SheetLine>& lines) {
  std::vector<DrawnLine> drawn;
  for (const SheetLine& line : lines) {
    for (std::string& part : wrapped_text(line.text, kCellWidth - 2 * kCellMargin, kCellFont, "   "))
      drawn.push_back({std::move(part), colour_of(line.mark)});
  }
  return drawn;
}

}  // namespace

void write_contact_sheet(const std::filesystem::path& path, const std::vector<SheetCell>& cells,
                         int columns) {
  TORCH_CHECK(columns > 0 && !cells.empty(), "contact sheet: at least one cell and one column expected");
  std::vector<std::vector<DrawnLine>> texts;
  std::size_t most_lines = 0;
  for (const SheetCell& cell : cells) {
    texts.push_back(wrapped(cell.lines));
    most_lines = std::max(most_lines, texts.back().size());
  }
  const int cell_height = kCellPicture + 3 * kCellMargin + kCellLineHeight * static_cast<int>(most_lines);
  const int rows = (static_cast<int>(cells.size()) + columns - 1) / columns;
  cv::Mat sheet(rows * cell_height, columns * kCellWidth, CV_8UC3, cv::Scalar(255, 255, 255));
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const int left = static_cast<int>(i) % columns * kCellWidth + kCellMargin;
    const int top = static_cast<int>(i) / columns * cell_height + kCellMargin;
    drawn_picture(cells[i].pixels, kCellPicture, kCellPicture)
        .copyTo(sheet(cv::Rect(left, top, kCellPicture, kCellPicture)));
    for (std::size_t line = 0; line < texts[i].size(); ++line) {
      const int baseline =
          top + kCellPicture + kCellMargin + kCellLineHeight * (static_cast<int>(line) + 1) - 4;
      draw_line(sheet, texts[i][line].text, {left, baseline}, kCellFont, texts[i][line].colour);
    }
  }
  write_file_atomically(path, png_bytes(sheet));
}

}  // namespace tessera::inference
