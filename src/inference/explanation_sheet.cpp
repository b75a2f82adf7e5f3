#include <ATen/ATen.h>

#include <algorithm>
#include <opencv2/imgproc.hpp>

#include "core/error.h"
#include "core/files.h"
#include "inference/drawing.h"
#include "inference/explanation_pages.h"

namespace tessera::inference {

namespace {

constexpr int kMargin = 20;
constexpr int kPicture = 210;
constexpr int kTile = 136;
constexpr int kGap = 12;
constexpr int kTilesInARow = 6;
constexpr int kLineHeight = 18;
constexpr int kScaleHeight = 10;
constexpr int kTileLabels = 2 * kLineHeight + 8;
constexpr int kWidth = 3 * kMargin + kPicture + kTilesInARow * (kTile + kGap) - kGap;
constexpr double kFont = 0.45;
constexpr double kSmallFont = 0.37;
const cv::Scalar kDark{40, 40, 40};
const cv::Scalar kGrey{120, 120, 120};
const cv::Scalar kRule{225, 225, 225};

/// Writes lines downwards.
class Pen {
 public:
  Pen(cv::Mat& sheet, int left, int top) : sheet_(sheet), left_(left), y_(top) {}

  void write(const std::string& text, int width, double font, const cv::Scalar& colour) {
    for (const std::string& line : wrapped_text(text, width, font)) {
      y_ += kLineHeight;
      draw_line(sheet_, line, {left_, y_ - 4}, font, colour);
    }
  }
  void skip(int pixels) { y_ += pixels; }
  int y() const { return y_; }

 private:
  cv::Mat& sheet_;
  int left_;
  int y_;
};

void draw_scale(cv::Mat& sheet, int left, int top, const ColourRange& range) {
  drawn_colour_scale(kPicture, kScaleHeight).copyTo(sheet(cv::Rect(left, top, kPicture, kScaleHeight)));
  const int baseline = top + kScaleHeight + kLineHeight - 4;
  const std::string high = fmt::format("{:.2f}", range.high), name = "similarity";
  draw_line(sheet, fmt::format("{:.2f}", range.low), {left, baseline}, kSmallFont, kGrey);
  draw_line(sheet, name, {left + (kPicture - line_width(name, kSmallFont)) / 2, baseline}, kSmallFont, kGrey);
  draw_line(sheet, high, {left + kPicture - line_width(high, kSmallFont), baseline}, kSmallFont, kGrey);
}

/// The image, what is said of it, and the scale of its maps. @return the y where it ends
int draw_image(cv::Mat& sheet, const ExplainedImage& image, const ColourRange& range, int top) {
  drawn_picture(image.pixels, kPicture, kPicture).copyTo(sheet(cv::Rect(kMargin, top, kPicture, kPicture)));
  Pen pen(sheet, kMargin, top + kPicture + 4);
  pen.write(image.caption.empty() ? "(no words)" : image.caption, kPicture, kFont, kDark);
  pen.write(image.note, kPicture, kSmallFont, kGrey);
  pen.write(std::filesystem::path(image.name).filename().string(), kPicture, kSmallFont, kGrey);
  if (image.maps.empty()) return pen.y();
  draw_scale(sheet, kMargin, pen.y() + 8, range);
  return pen.y() + 8 + kScaleHeight + kLineHeight;
}

void draw_map(cv::Mat& sheet, const ExplainedImage& image, const HeatMap& map, const ColourRange& range,
              cv::Point place) {
  drawn_heat_map(image.pixels, map.similarity, range.low, range.high, kTile, kTile)
      .copyTo(sheet(cv::Rect(place.x, place.y, kTile, kTile)));
  Pen pen(sheet, place.x, place.y + kTile + 2);
  pen.write(map.word + (map.in_text ? "" : " (by itself)"), kTile, kFont, kDark);
  pen.write(fmt::format("{:.2f} to {:.2f}", map.similarity.min().item<double>(),
                        map.similarity.max().item<double>()),
            kTile, kSmallFont, kGrey);
}

/// One image with its maps on a sheet of its own, cut off below.
cv::Mat drawn_row(const ExplainedImage& image) {
  const ColourRange range = colour_range(image.maps);
  const int tiles = static_cast<int>(image.maps.size());
  const int tile_rows = (tiles + kTilesInARow - 1) / kTilesInARow;
  const int text_lines = 2 + static_cast<int>(wrapped_text(image.caption, kPicture, kFont).size() +
                                              wrapped_text(image.note, kPicture, kSmallFont).size() +
                                              wrapped_text(image.name, kPicture, kSmallFont).size());
  const int most = std::max(kPicture + kLineHeight * (text_lines + 2), tile_rows * (kTile + 4 * kTileLabels));
  cv::Mat sheet(most + 2 * kMargin, kWidth, CV_8UC3, cv::Scalar(255, 255, 255));
  int bottom = draw_image(sheet, image, range, kMargin);
  for (int tile = 0; tile < tiles; ++tile) {
    const cv::Point place(2 * kMargin + kPicture + tile % kTilesInARow * (kTile + kGap),
                          kMargin + tile / kTilesInARow * (kTile + kTileLabels + kGap));
    draw_map(sheet, image, image.maps[static_cast<std::size_t>(tile)], range, place);
    bottom = std::max(bottom, place.y + kTile + kTileLabels);
  }
  return sheet.rowRange(0, std::min(bottom + kMargin, sheet.rows));
}

}  // namespace

ColourRange colour_range(const std::vector<HeatMap>& maps) {
  if (maps.empty()) return {};
  ColourRange range{maps.front().similarity.min().item<double>(),
                    maps.front().similarity.max().item<double>()};
  for (const HeatMap& map : maps) {
    range.low = std::min(range.low, map.similarity.min().item<double>());
    range.high = std::max(range.high, map.similarity.max().item<double>());
  }
  return range;
}

void write_explanation_sheet(const std::filesystem::path& path, const std::vector<ExplainedImage>& images) {
  TORCH_CHECK(!images.empty(), "explanation sheet: at least one image expected");
  std::vector<cv::Mat> rows;
  for (const ExplainedImage& image : images) {
    cv::Mat row = drawn_row(image);
    if (!rows.empty()) cv::line(row, {kMargin, 0}, {kWidth - kMargin, 0}, kRule, 1);
    rows.push_back(std::move(row));
  }
  cv::Mat sheet;
  cv::vconcat(rows, sheet);
  write_file_atomically(path, png_bytes(sheet));
}

}  // namespace tessera::inference
