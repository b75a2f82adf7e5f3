#pragma once

#include <cstdint>
#include <opencv2/core/mat.hpp>

namespace tessera::data {

/// A part of an image, in pixels.
struct CropBox {
  std::int64_t top = 0;
  std::int64_t left = 0;
  std::int64_t height = 0;
  std::int64_t width = 0;
};

/// PIL's numbers of its filters, which preprocessor_config.json uses.
enum class ResizeFilter { kBilinear = 2, kBicubic = 3 };

/// An image's size after resizing, in pixels.
struct ResizedSize {
  std::int64_t height = 0;
  std::int64_t width = 0;
};

/// The size at which the shorter edge is `shortest_edge`; the longer one is cut to a whole number of pixels.
ResizedSize with_shortest_edge(std::int64_t height, std::int64_t width, std::int64_t shortest_edge);

/// Resizes as PIL's Image.resize (Pillow 13) does, bit for bit: along rows, then down columns, or the other
/// way round where the height shrinks by more than twice as many pixels as the width (up to Pillow 12 always
/// rows first; the last bit of such images differs); the filter (bicubic: a = -0.5) widened by the scale
/// where the image shrinks; weights of 22 fractional bits; each pass rounded to bytes. Only `region` of the
/// result is computed, which costs in proportion.
/// @param image   [H, W] of three bytes, rows perhaps apart
/// @param size    of the whole result
/// @param region  part of the result, inside it
/// @return [region.height, region.width] of three bytes, without gaps between rows
cv::Mat resize_region(const cv::Mat& image, const ResizedSize& size, ResizeFilter filter,
                      const CropBox& region);

}  // namespace tessera::data
