#include "inference/drawing.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <sstream>

#include "core/error.h"

namespace tessera::inference {

namespace {

constexpr int kFontFace = cv::FONT_HERSHEY_SIMPLEX;
constexpr int kColours = cv::COLORMAP_INFERNO;
constexpr double kHeat = 0.6;  ///< share of a heat map's colour that is the similarity's

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

/// [rows, columns] of 0 … 1, interpolated, in the colours of the scale; what lies beyond has the end's
/// colour.
cv::Mat coloured(const at::Tensor& values, int width, int height) {
  const at::Tensor floats = values.to(at::kFloat).contiguous();
  const cv::Mat small(static_cast<int>(floats.size(0)), static_cast<int>(floats.size(1)), CV_32FC1,
                      floats.data_ptr());
  cv::Mat scaled, colours;
  cv::resize(small, scaled, {width, height}, 0, 0, cv::INTER_LINEAR);
  scaled.convertTo(colours, CV_8U, 255);
  cv::applyColorMap(colours, colours, kColours);
  return colours;
}

}  // namespace

cv::Mat drawn_picture(const at::Tensor& pixels, int width, int height) {
  TORCH_CHECK(pixels.dim() == 3 && pixels.size(0) == 3 && pixels.scalar_type() == at::kByte,
              "drawn picture: pixels [3,H,W] uint8 expected, got ", pixels.sizes());
  const at::Tensor bgr = pixels.cpu().flip(0).permute({1, 2, 0}).contiguous();
  const cv::Mat small(static_cast<int>(bgr.size(0)), static_cast<int>(bgr.size(1)), CV_8UC3, bgr.data_ptr());
  cv::Mat scaled;
  const bool shrinks = bgr.size(0) > height || bgr.size(1) > width;
  cv::resize(small, scaled, {width, height}, 0, 0, shrinks ? cv::INTER_AREA : cv::INTER_CUBIC);
  return scaled;
}

cv::Mat drawn_heat_map(const at::Tensor& pixels, const at::Tensor& similarity, double low, double high,
                       int width, int height) {
  TORCH_CHECK(similarity.dim() == 2, "heat map: similarities [rows, columns] expected, got ",
              similarity.sizes());
  cv::Mat grey;
  cv::cvtColor(drawn_picture(pixels, width, height), grey, cv::COLOR_BGR2GRAY);
  cv::cvtColor(grey, grey, cv::COLOR_GRAY2BGR);
  const double range = std::max(high - low, 1e-12);  // where all is the same, all is low
  const cv::Mat heat = coloured(similarity.to(at::kDouble).sub(low).div(range), width, height);
  cv::Mat drawn;
  cv::addWeighted(heat, kHeat, grey, 1 - kHeat, 0, drawn);
  return drawn;
}

cv::Mat drawn_colour_scale(int width, int height) {
  return coloured(at::linspace(0, 1, 256).unsqueeze(0), width, height);
}

std::vector<std::string> wrapped_text(const std::string& text, int width, double font_scale,
                                      const std::string& indent) {
  std::vector<std::string> lines;
  std::istringstream words(ascii(text));
  std::string current;
  for (std::string word; words >> word;) {
    const std::string longer = current.empty() ? word : current + " " + word;
    if (!current.empty() && line_width(longer, font_scale) > width) {
      lines.push_back(current);
      current = indent + word;
    } else {
      current = longer;
    }
  }
  lines.push_back(current);
  return lines;
}

void draw_line(cv::Mat& sheet, const std::string& line, cv::Point left_of_baseline, double font_scale,
               const cv::Scalar& colour) {
  cv::putText(sheet, ascii(line), left_of_baseline, kFontFace, font_scale, colour, 1, cv::LINE_AA);
}

int line_width(const std::string& line, double font_scale) {
  return cv::getTextSize(ascii(line), kFontFace, font_scale, 1, nullptr).width;
}

std::string png_bytes(const cv::Mat& picture) {
  std::vector<unsigned char> encoded;
  if (!cv::imencode(".png", picture, encoded)) fail("a picture cannot be encoded as PNG");
  return {encoded.begin(), encoded.end()};
}

}  // namespace tessera::inference
