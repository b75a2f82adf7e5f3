#include "data/resize.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "data/resize_kernel.h"

namespace tessera::data {
namespace {

double support_of(ResizeFilter filter) { return filter == ResizeFilter::kBilinear ? 1.0 : 2.0; }

double filter_value(ResizeFilter filter, double x) {
  x = std::abs(x);
  if (filter == ResizeFilter::kBilinear) return x < 1.0 ? 1.0 - x : 0.0;
  constexpr double a = -0.5;
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return (((x - 5.0) * x + 8.0) * x - 4.0) * a;
  return 0.0;
}

std::int32_t fixed_point(double weight) {
  const double scaled = weight * (1 << kWeightBits);
  return static_cast<std::int32_t>(weight < 0 ? scaled - 0.5 : scaled + 0.5);
}

/// The weights of outputs [begin, begin + count) of `outputs`, from `inputs` inputs. The order of operations
/// is PIL's, so that the roundings are.
ResizeWeights resize_weights(std::int64_t inputs, std::int64_t outputs, std::int64_t begin,
                             std::int64_t count, ResizeFilter filter) {
  const double scale = static_cast<double>(inputs) / static_cast<double>(outputs);
  const double widening = std::max(scale, 1.0);
  const double support = support_of(filter) * widening;
  const double narrowing = 1.0 / widening;
  ResizeWeights result;
  result.stride = static_cast<std::int64_t>(std::ceil(support)) * 2 + 1;
  result.weights.assign(static_cast<std::size_t>(count * result.stride), 0);
  std::vector<double> exact;
  for (std::int64_t i = 0; i < count; ++i) {
    const double centre = (static_cast<double>(begin + i) + 0.5) * scale;
    const auto first = std::max<std::int64_t>(0, static_cast<std::int64_t>(centre - support + 0.5));
    const auto end = std::min(inputs, static_cast<std::int64_t>(centre + support + 0.5));
    exact.clear();
    double sum = 0;
    for (std::int64_t input = first; input < end; ++input) {
      exact.push_back(filter_value(filter, (static_cast<double>(input) - centre + 0.5) * narrowing));
      sum += exact.back();
    }
    result.first.push_back(first);
    result.taps.push_back(end - first);
    auto to = result.weights.begin() + i * result.stride;
    for (const double weight : exact) *to++ = fixed_point(sum != 0 ? weight / sum : weight);
  }
  return result;
}

/// The inputs [begin, end) that outputs are made of.
struct Inputs {
  std::int64_t begin = 0;
  std::int64_t end = 0;
};

/// Counts the weights' inputs from the first that any output reads.
Inputs count_from_first(ResizeWeights& weights) {
  const Inputs inputs{weights.first.front(), weights.first.back() + weights.taps.back()};
  for (std::int64_t& first : weights.first) first -= inputs.begin;
  return inputs;
}

PixelRows rows_of(const cv::Mat& image) {
  return {image.ptr(), static_cast<std::int64_t>(image.step[0]), image.rows, image.cols};
}

void resize_along_rows(const cv::Mat& image, const ResizeWeights& weights, cv::Mat& to) {
  ResizeScratch scratch;
  sum_along_rows(rows_of(image), weights, scratch, to.ptr(), static_cast<std::int64_t>(to.step[0]));
}

void resize_down_columns(const cv::Mat& image, const ResizeWeights& weights, cv::Mat& to) {
  ResizeScratch scratch;
  const PixelRows rows = rows_of(image);
  for (int row = 0; row < to.rows; ++row) {
    const auto i = static_cast<std::size_t>(row);
    sum_down_columns(rows.first + weights.first[i] * rows.stride, rows.stride,
                     &weights.weights[i * static_cast<std::size_t>(weights.stride)], weights.taps[i], scratch,
                     to.ptr(row), std::int64_t{3} * to.cols);
  }
}

cv::Mat new_image(std::int64_t height, std::int64_t width) {
  return {static_cast<int>(height), static_cast<int>(width), CV_8UC3};
}

/// Whether PIL (from version 13 on) resizes the columns first: where the height shrinks by more than twice
/// what the width does, in pixels.
bool columns_first(const cv::Mat& image, const ResizedSize& size) {
  const std::int64_t rows_less = image.rows - size.height;
  const std::int64_t columns_less = image.cols - size.width;
  return rows_less > 0 && rows_less > 2 * columns_less;
}

}  // namespace

ResizedSize with_shortest_edge(std::int64_t height, std::int64_t width, std::int64_t shortest_edge) {
  const std::int64_t shorter = std::min(height, width);
  return {shortest_edge * height / shorter, shortest_edge * width / shorter};
}

cv::Mat resize_region(const cv::Mat& image, const ResizedSize& size, ResizeFilter filter,
                      const CropBox& region) {
  TORCH_CHECK(image.type() == CV_8UC3 && !image.empty(), "expected an image of three bytes a pixel");
  TORCH_CHECK(region.height > 0 && region.width > 0 && region.top >= 0 && region.left >= 0 &&
                  region.top + region.height <= size.height && region.left + region.width <= size.width,
              "the region lies outside the resized image");
  cv::Mat result = new_image(region.height, region.width);
  const bool height_stays = size.height == image.rows;
  const bool width_stays = size.width == image.cols;
  // Source rows and columns that the region is made of, and how.
  Inputs rows{region.top, region.top + region.height};
  Inputs columns{region.left, region.left + region.width};
  ResizeWeights vertical, horizontal;
  if (!height_stays) {
    vertical = resize_weights(image.rows, size.height, region.top, region.height, filter);
    rows = count_from_first(vertical);
  }
  if (!width_stays) {
    horizontal = resize_weights(image.cols, size.width, region.left, region.width, filter);
    columns = count_from_first(horizontal);
  }
  const cv::Mat source = image(cv::Range(static_cast<int>(rows.begin), static_cast<int>(rows.end)),
                               cv::Range(static_cast<int>(columns.begin), static_cast<int>(columns.end)));
  if (height_stays && width_stays) {
    source.copyTo(result);
  } else if (height_stays) {
    resize_along_rows(source, horizontal, result);
  } else if (width_stays) {
    resize_down_columns(source, vertical, result);
  } else if (columns_first(image, size)) {
    cv::Mat between = new_image(region.height, source.cols);
    resize_down_columns(source, vertical, between);
    resize_along_rows(between, horizontal, result);
  } else {
    cv::Mat between = new_image(source.rows, region.width);
    resize_along_rows(source, horizontal, between);
    resize_down_columns(between, vertical, result);
  }
  return result;
}

}  // namespace tessera::data
