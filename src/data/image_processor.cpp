#include "data/image_processor.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include <algorithm>

#include "core/error.h"
#include "data/image_header.h"
#include "data/image_transform.h"

namespace tessera::data {
namespace {

/// Of an edge: what is kept of `length` pixels, and where it stands among `crop`.
struct CentralPart {
  std::int64_t first = 0;
  std::int64_t count = 0;
  std::int64_t place = 0;
};

CentralPart central_part(std::int64_t length, std::int64_t crop) {
  if (length >= crop) return {(length - crop) / 2, crop, 0};
  return {0, length, (crop - length + 1) / 2};  // of an odd margin, the larger half comes first
}

}  // namespace

ImageProcessorOptions ImageProcessorOptions::with_image_size(std::int64_t edge) const {
  TORCH_CHECK(edge > 0, "an edge of ", edge, " pixels");
  ImageProcessorOptions changed = *this;
  if (do_resize && shortest_edge > 0) {
    const std::int64_t crop = std::min(crop_size.height, crop_size.width);
    changed.shortest_edge = do_center_crop ? (shortest_edge * edge + crop / 2) / crop : edge;
  }
  if (do_resize && shortest_edge == 0) changed.size = {edge, edge};
  if (do_center_crop) changed.crop_size = {edge, edge};
  return changed;
}

ImageProcessor::ImageProcessor(const ImageProcessorOptions& options) : options_(options) {
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const auto mean = static_cast<float>(options.image_mean[channel]);
    const auto std = static_cast<float>(options.image_std[channel]);
    for (std::size_t byte = 0; byte < 256; ++byte) {
      // The roundings are those of transformers: float64 up to here, float32 from here on.
      auto value =
          static_cast<float>(static_cast<double>(byte) * (options.do_rescale ? options.rescale_factor : 1));
      if (options.do_normalize) value = (value - mean) / std;
      values_of_[channel][byte] = value;
    }
  }
}

at::Tensor ImageProcessor::pixels(const cv::Mat& image, const std::string& name) const {
  ResizedSize size{image.rows, image.cols};
  if (options_.do_resize) {
    size = options_.shortest_edge > 0 ? with_shortest_edge(image.rows, image.cols, options_.shortest_edge)
                                      : options_.size;
  }
  const ResizedSize result = options_.do_center_crop ? options_.crop_size : size;
  if (result.width > kMaxPixels / result.height) {
    fail("{}: an image of {} × {} pixels would become one of {} × {}", name, image.cols, image.rows,
         result.width, result.height);
  }
  const CentralPart rows = central_part(size.height, result.height);
  const CentralPart columns = central_part(size.width, result.width);
  const cv::Mat resized =
      resize_region(image, size, options_.resample, {rows.first, columns.first, rows.count, columns.count});
  const bool padded = rows.count < result.height || columns.count < result.width;
  const at::Tensor pixels = padded ? at::zeros({3, result.height, result.width}, at::kByte)
                                   : at::empty({3, result.height, result.width}, at::kByte);
  put_planes(resized, pixels.narrow(1, rows.place, rows.count).narrow(2, columns.place, columns.count));
  return pixels;
}

at::Tensor ImageProcessor::values(const at::Tensor& pixels) const {
  TORCH_CHECK(pixels.dim() == 3 && pixels.size(0) == 3 && pixels.scalar_type() == at::kByte,
              "expected uint8 [3, H, W], got ", pixels.sizes(), " ", pixels.scalar_type());
  const at::Tensor bytes = pixels.contiguous();
  at::Tensor values = at::empty(bytes.sizes(), at::kFloat);
  const std::int64_t count = bytes.size(1) * bytes.size(2);
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const std::uint8_t* from = bytes.data_ptr<std::uint8_t>() + static_cast<std::int64_t>(channel) * count;
    float* to = values.data_ptr<float>() + static_cast<std::int64_t>(channel) * count;
    for (std::int64_t i = 0; i < count; ++i) to[i] = values_of_[channel][from[i]];
  }
  return values;
}

}  // namespace tessera::data
