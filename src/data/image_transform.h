#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <opencv2/core/mat.hpp>
#include <string>

#include "core/random.h"
#include "core/regular_file.h"
#include "data/data_config.h"
#include "data/resize.h"

namespace tessera::data {

/// What becomes of transparency.
enum class Alpha {
  kWhite,  ///< white shines through, as transformers 5 does with an image that PIL has opened
  kDrop,   ///< the colour beneath shows, mostly black: PIL's convert("RGB"), so transformers with a path
};

/// Decodes a JPEG, PNG or WebP file: upright (EXIF orientation applied), grey and CMYK turned into colour,
/// transparency laid on white or dropped. Of an animated WebP the first frame, of an animated PNG the picture
/// that it shows where animations aren't known.
/// @param name  stands for the image in messages
/// @return [H, W] of three bytes, RGB
/// @throws Error where the image is broken, cut short or of another format
cv::Mat decode_image(Bytes bytes, const std::string& name, Alpha alpha = Alpha::kWhite);

/// The random resized crop's box (Szegedy et al. 2015, "Going deeper with convolutions", section 6): area
/// uniform in [scale_min, scale_max] of the image, aspect ratio log-uniform in [ratio_min, ratio_max], place
/// uniform. Where ten draws don't fit, the largest central box within the ratios.
CropBox random_crop_box(std::int64_t height, std::int64_t width, const AugmentationConfig& augmentation,
                        CounterRandom& random);

/// Cuts the box out and resizes it to a square: bicubic, antialiased, as PIL does.
/// There is no flip: captions say "left".
/// @param image  [H, W] RGB as decode_image gives it
/// @param out    [3, S, S] uint8, contiguous; receives the pixels
void resized_crop(const cv::Mat& image, const CropBox& box, const at::Tensor& out);

/// The evaluation transform: the shorter edge becomes S (bicubic, antialiased), then the central S × S is cut
/// out.
/// @param image  [H, W] RGB as decode_image gives it
/// @param out    [3, S, S] uint8, contiguous; receives the pixels
/// @throws Error where one edge is more than 64 times the other
void resize_and_centre_crop(const cv::Mat& image, const at::Tensor& out, const std::string& name);

/// An interleaved image into planes.
/// @param image  [H, W] of three bytes
/// @param out    [3, H, W] uint8, perhaps a part of something larger
void put_planes(const cv::Mat& image, const at::Tensor& out);

/// Decoded and so transformed: an image file as evaluation sees it.
/// @return [3, size, size] uint8 RGB
at::Tensor decode_for_evaluation(Bytes bytes, std::int64_t size, const std::string& name);

}  // namespace tessera::data
