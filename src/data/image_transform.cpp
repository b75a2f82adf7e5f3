#include "data/image_transform.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>

#include "core/error.h"
#include "core/file_kind.h"
#include "data/exif_orientation.h"
#include "data/image_header.h"

namespace tessera::data {
namespace {

constexpr std::int64_t kMaxAspectRatio = 64;

/// Four bytes or 16-bit values a pixel (BGRA) to three bytes RGB on white.
cv::Mat laid_on_white(const cv::Mat& bgra) {
  cv::Mat deep;
  bgra.convertTo(deep, CV_32FC4, bgra.depth() == CV_16U ? 1.0 / 65535.0 : 1.0 / 255.0);
  cv::Mat rgb(bgra.size(), CV_8UC3);
  for (int y = 0; y < deep.rows; ++y) {
    const auto* from = deep.ptr<cv::Vec4f>(y);
    auto* to = rgb.ptr<cv::Vec3b>(y);
    for (int x = 0; x < deep.cols; ++x) {
      const float alpha = from[x][3];
      for (int c = 0; c < 3; ++c) {
        to[x][c] = cv::saturate_cast<uchar>(255.0f * (from[x][2 - c] * alpha + 1.0f - alpha));
      }
    }
  }
  return rgb;
}

std::int64_t checked_image_size(const at::Tensor& out) {
  TORCH_CHECK(out.dim() == 3 && out.size(0) == 3 && out.size(1) == out.size(2) && out.size(1) > 0 &&
                  out.scalar_type() == at::kByte && out.is_contiguous(),
              "out must be a contiguous uint8 [3, S, S], got ", out.sizes(), " ", out.scalar_type());
  return out.size(1);
}

}  // namespace

cv::Mat decode_image(Bytes bytes, const std::string& name, Alpha alpha) {
  const ImageHeader header = inspect_image(bytes, name);
  const cv::Mat encoded(1, static_cast<int>(bytes.size()), CV_8U, const_cast<std::byte*>(bytes.data()));
  cv::Mat image;
  try {
    if (header.may_have_alpha && alpha == Alpha::kWhite) {
      image = cv::imdecode(encoded, cv::IMREAD_UNCHANGED);  // as stored: not turned either
    }
    // A broken one is empty and has four channels all the same.
    if (!image.empty() && image.channels() == 4) return upright(laid_on_white(image), header.orientation);
    // Which formats OpenCV turns depends on its version; JPEGs it has always turned.
    const bool turned = header.format == ImageFormat::kJpeg;
    image =
        cv::imdecode(encoded, turned ? cv::IMREAD_COLOR : cv::IMREAD_COLOR | cv::IMREAD_IGNORE_ORIENTATION);
    if (!turned && !image.empty()) image = upright(image, header.orientation);
  } catch (const cv::Exception& error) {
    fail("{}: the image can't be decoded: {}", name, error.what());
  }
  if (image.empty()) {
    const std::string found = other_kind(bytes, {FileKind::kImage});
    fail("{}: the image can't be decoded{}{}", name, found.empty() ? "" : ": this is ", found);
  }
  cv::Mat rgb;
  cv::cvtColor(image, rgb, cv::COLOR_BGR2RGB);
  return rgb;
}

CropBox random_crop_box(std::int64_t height, std::int64_t width, const AugmentationConfig& augmentation,
                        CounterRandom& random) {
  constexpr int kDraws = 10;
  const auto area = static_cast<double>(height * width);
  for (int draw = 0; draw < kDraws; ++draw) {
    const double target = area * random.uniform(augmentation.scale_min, augmentation.scale_max);
    const double ratio =
        std::exp(random.uniform(std::log(augmentation.ratio_min), std::log(augmentation.ratio_max)));
    const auto crop_width = static_cast<std::int64_t>(std::llround(std::sqrt(target * ratio)));
    const auto crop_height = static_cast<std::int64_t>(std::llround(std::sqrt(target / ratio)));
    if (crop_width < 1 || crop_height < 1 || crop_width > width || crop_height > height) continue;
    const auto top =
        static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(height - crop_height + 1)));
    const auto left =
        static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(width - crop_width + 1)));
    return {top, left, crop_height, crop_width};
  }
  const auto widest =
      static_cast<std::int64_t>(std::llround(static_cast<double>(height) * augmentation.ratio_max));
  const auto highest =
      static_cast<std::int64_t>(std::llround(static_cast<double>(width) / augmentation.ratio_min));
  const std::int64_t crop_width = std::clamp<std::int64_t>(widest, 1, width);
  const std::int64_t crop_height = std::clamp<std::int64_t>(highest, 1, height);
  return {(height - crop_height) / 2, (width - crop_width) / 2, crop_height, crop_width};
}

void resized_crop(const cv::Mat& image, const CropBox& box, const at::Tensor& out) {
  const std::int64_t image_size = checked_image_size(out);
  const cv::Rect region(static_cast<int>(box.left), static_cast<int>(box.top), static_cast<int>(box.width),
                        static_cast<int>(box.height));
  put_planes(resize_region(image(region), {image_size, image_size}, ResizeFilter::kBicubic,
                           {0, 0, image_size, image_size}),
             out);
}

void resize_and_centre_crop(const cv::Mat& image, const at::Tensor& out, const std::string& name) {
  const std::int64_t image_size = checked_image_size(out);
  const std::int64_t shorter = std::min(image.rows, image.cols);
  const std::int64_t longer = std::max(image.rows, image.cols);
  // The longer edge of a sliver would grow without bound; nothing of it would be left in the centre anyway.
  if (longer > shorter * kMaxAspectRatio) {
    fail("{}: an image of {} × {} pixels; edges up to 1:{} are read", name, image.cols, image.rows,
         kMaxAspectRatio);
  }
  const ResizedSize size = with_shortest_edge(image.rows, image.cols, image_size);
  const CropBox centre{(size.height - image_size) / 2, (size.width - image_size) / 2, image_size, image_size};
  put_planes(resize_region(image, size, ResizeFilter::kBicubic, centre), out);
}

void put_planes(const cv::Mat& image, const at::Tensor& out) {
  TORCH_CHECK(image.isContinuous() && image.type() == CV_8UC3, "expected packed pixels of three bytes");
  out.copy_(at::from_blob(image.data, {image.rows, image.cols, 3}, at::kByte).permute({2, 0, 1}));
}

at::Tensor decode_for_evaluation(Bytes bytes, std::int64_t size, const std::string& name) {
  const at::Tensor pixels = at::empty({3, size, size}, at::kByte);
  resize_and_centre_crop(decode_image(bytes, name), pixels, name);
  return pixels;
}

}  // namespace tessera::data
