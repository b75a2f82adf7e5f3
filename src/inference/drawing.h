#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <opencv2/core/mat.hpp>
#include <string>
#include <vector>

namespace tessera::inference {

// Pictures for people: what the sheets share. Colours are OpenCV's, blue first.

/// A picture of `width` x `height` pixels in OpenCV's order of channels.
/// @param pixels [3, H, W] uint8 RGB
cv::Mat drawn_picture(const at::Tensor& pixels, int width, int height);

/// A similarity a patch as colours over the picture, which keeps its light and dark and loses its own
/// colours. Between patches it is interpolated.
/// @param pixels     [3, H, W] uint8 RGB
/// @param similarity [rows, columns] float
/// @param low, high  the ends of the colour scale; what lies beyond them has the colour of the end
cv::Mat drawn_heat_map(const at::Tensor& pixels, const at::Tensor& similarity, double low, double high,
                       int width, int height);

/// The colour scale of heat maps, from low at the left to high at the right.
cv::Mat drawn_colour_scale(int width, int height);

/// A text as lines of at most `width` pixels, drawn with draw_line. Characters outside ASCII, which OpenCV's
/// fonts lack, become '?'.
/// @param indent  in front of every line but the first
std::vector<std::string> wrapped_text(const std::string& text, int width, double font_scale,
                                      const std::string& indent = "");
/// Writes one line, its baseline at `baseline`.
void draw_line(cv::Mat& sheet, const std::string& line, cv::Point left_of_baseline, double font_scale,
               const cv::Scalar& colour);
/// Width of a line in pixels.
int line_width(const std::string& line, double font_scale);

/// A picture as the content of a PNG file.
std::string png_bytes(const cv::Mat& picture);

}  // namespace tessera::inference
