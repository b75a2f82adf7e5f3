#include "eval/contact_sheet.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <sstream>

#include "core/error.h"
#include "core/files.h"

namespace tessera::eval {

namespace {

constexpr int kCellWidth = 300;
constexpr int kPicture = 168;
constexpr int kMargin = 12;
constexpr int kLineHeight = 16;
constexpr double kFontScale = 0.4;
constexpr int kFont = cv::FONT_HERSHEY_SIMPLEX;

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

std::string ascii(const std::string& text) {
  std::string plain;
  for (const unsigned char c : text) {
    if (c < 0x80) {
      plain += static_cast<char>(c);
    } else if (c >= 0xC0) {  // the first byte of a character; the others say nothing
      plain += '?';
    }
  }
  return plain;
}

std::vector<DrawnLine> wrapped(const std::vector<SheetLine>& lines) {
  std::vector<DrawnLine> drawn;
  for (const SheetLine& line : lines) {
    std::istringstream words(ascii(line.text));
    std::string current;
    for (std::string word; words >> word;) {
      const std::string longer = current.empty() ? word : current + " " + word;
      const int width = cv::getTextSize(longer, kFont, kFontScale, 1, nullptr).width;
      if (width > kCellWidth - 2 * kMargin && !current.empty()) {
        drawn.push_back({current, colour_of(line.mark)});
        current = "   " + word;
      } else {
        current = longer;
      }
    }
    drawn.push_back({current, colour_of(line.mark)});
  }
  return drawn;
}

cv::Mat picture_of(const at::Tensor& pixels) {
  TORCH_CHECK(pixels.dim() == 3 && pixels.size(0) == 3 && pixels.scalar_type() == at::kByte,
              "contact sheet: pixels [3,H,W] uint8 expected, got ", pixels.sizes());
  const at::Tensor bgr = pixels.cpu().flip(0).permute({1, 2, 0}).contiguous();
  const cv::Mat small(static_cast<int>(bgr.size(0)), static_cast<int>(bgr.size(1)), CV_8UC3, bgr.data_ptr());
  cv::Mat scaled;
  cv::resize(small, scaled, {kPicture, kPicture}, 0, 0, cv::INTER_CUBIC);
  return scaled;
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
  const int cell_height = kPicture + 3 * kMargin + kLineHeight * static_cast<int>(most_lines);
  const int rows = (static_cast<int>(cells.size()) + columns - 1) / columns;
  cv::Mat sheet(rows * cell_height, columns * kCellWidth, CV_8UC3, cv::Scalar(255, 255, 255));
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const int left = static_cast<int>(i) % columns * kCellWidth + kMargin;
    const int top = static_cast<int>(i) / columns * cell_height + kMargin;
    picture_of(cells[i].pixels).copyTo(sheet(cv::Rect(left, top, kPicture, kPicture)));
    for (std::size_t line = 0; line < texts[i].size(); ++line) {
      const int baseline = top + kPicture + kMargin + kLineHeight * (static_cast<int>(line) + 1) - 4;
      cv::putText(sheet, texts[i][line].text, {left, baseline}, kFont, kFontScale, texts[i][line].colour, 1,
                  cv::LINE_AA);
    }
  }
  std::vector<unsigned char> encoded;
  if (!cv::imencode(".png", sheet, encoded)) fail("{}: the picture cannot be encoded", path.string());
  write_file_atomically(path, {reinterpret_cast<const char*>(encoded.data()), encoded.size()});
}

}  // namespace tessera::eval
