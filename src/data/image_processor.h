#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <opencv2/core/mat.hpp>
#include <string>

#include "data/resize.h"

namespace tessera::data {

/// What a preprocessor_config.json says, as transformers' BitImageProcessor, CLIPImageProcessor and
/// ViTImageProcessor understand it. The defaults are those of the first two.
struct ImageProcessorOptions {
  bool do_resize = true;
  std::int64_t shortest_edge = 224;  ///< pixels; 0: `size` instead, whatever the image's proportions
  ResizedSize size;
  ResizeFilter resample = ResizeFilter::kBicubic;
  bool do_center_crop = true;
  ResizedSize crop_size = {224, 224};
  bool do_rescale = true;
  double rescale_factor = 1.0 / 255.0;
  bool do_normalize = true;
  std::array<double, 3> image_mean = {0.48145466, 0.4578275, 0.40821073};
  std::array<double, 3> image_std = {0.26862954, 0.26130258, 0.27577711};

  /// From the content of the file. Fields that are absent or null have the default of the class that
  /// `image_processor_type` names (with or without "Fast" or "Pil"; absent: BitImageProcessor, DINOv2's).
  /// @param source  names the content in messages
  /// @throws Error naming the field where it is malformed, or would change the result and isn't supported
  static ImageProcessorOptions from_json(const nlohmann::json& config, const std::string& source);

  /// The preprocessor_config.json of a model's folder, or that file itself.
  /// @throws Error, also where there is none
  static ImageProcessorOptions load(const std::filesystem::path& path);

  /// As from_json reads it, every field given.
  nlohmann::json to_json() const;

  /// The same processing for images of `edge` pixels a side, at an edge before cropping that stands in the
  /// same proportion (256 and 224 become 585 and 512).
  ImageProcessorOptions with_image_size(std::int64_t edge) const;
};

/// Prepares images for an encoder as transformers' image processors do with PIL ("slow"): resize, central
/// crop, rescale, normalise. Where the crop is larger than the image, zeros (before rescaling) surround it.
/// Equal to transformers 5.23 with Pillow 13 bit for bit; the processors that resize by torchvision ("fast")
/// differ by up to a grey level or so.
class ImageProcessor {
 public:
  explicit ImageProcessor(const ImageProcessorOptions& options);

  /// The part in bytes: resized and cropped.
  /// @param image  [H, W] RGB as decode_image gives it
  /// @param name   stands for the image in messages
  /// @return [3, h, w] uint8
  /// @throws Error where the result would have more than 2^27 pixels, as of a sliver that is not cropped
  at::Tensor pixels(const cv::Mat& image, const std::string& name) const;

  /// The part in numbers: rescaled and normalised.
  /// @param pixels  [3, h, w] uint8
  /// @return [3, h, w] float32
  at::Tensor values(const at::Tensor& pixels) const;

  /// Both: pixel_values, [3, h, w] float32.
  at::Tensor process(const cv::Mat& image, const std::string& name) const {
    return values(pixels(image, name));
  }

  const ImageProcessorOptions& options() const { return options_; }

 private:
  ImageProcessorOptions options_;
  std::array<std::array<float, 256>, 3> values_of_;  ///< by channel and byte
};

}  // namespace tessera::data
