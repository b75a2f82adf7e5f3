#include <ATen/ATen.h>

#include <opencv2/core/mat.hpp>

#include "core/error.h"
#include "data/image_processor.h"
#include "data/image_transform.h"
#include "tests/golden_ops/golden_case.h"

namespace tessera::golden {

namespace {

GoldenResult image_processor(const GoldenCase& golden) {
  if (!golden.params.contains("processor")) fail("{}: params.processor is missing", golden.name);
  const auto found = golden.inputs.find("image");
  if (found == golden.inputs.end()) fail("{}: in.image is missing", golden.name);
  const at::Tensor image = found->second.contiguous();
  if (image.dim() != 3 || image.size(2) != 3 || image.scalar_type() != at::kByte) {
    fail("{}: in.image: expected uint8 [H, W, 3], found {} [{}]", golden.name,
         c10::toString(image.scalar_type()), fmt::join(image.sizes().vec(), ", "));
  }
  const data::ImageProcessor processor(
      data::ImageProcessorOptions::from_json(golden.params["processor"], golden.name + ": params.processor"));
  const cv::Mat pixels(static_cast<int>(image.size(0)), static_cast<int>(image.size(1)), CV_8UC3,
                       image.data_ptr());
  GoldenResult result;
  result.outputs["pixel_values"] = processor.process(pixels, golden.name);
  return result;
}

at::Tensor pixels_of(const at::Tensor& file, data::Alpha alpha, const std::string& name) {
  const Bytes bytes(static_cast<const std::byte*>(file.data_ptr()), static_cast<std::size_t>(file.numel()));
  const cv::Mat image = data::decode_image(bytes, name, alpha);
  return at::from_blob(image.data, {image.rows, image.cols, 3}, at::kByte).to(at::kFloat);
}

GoldenResult image_file(const GoldenCase& golden) {
  const auto found = golden.inputs.find("file");
  if (found == golden.inputs.end() || found->second.dim() != 1 || found->second.scalar_type() != at::kByte) {
    fail("{}: in.file: expected uint8 [bytes]", golden.name);
  }
  const at::Tensor file = found->second.contiguous();
  GoldenResult result;
  result.outputs["white"] = pixels_of(file, data::Alpha::kWhite, golden.name);
  result.outputs["dropped"] = pixels_of(file, data::Alpha::kDrop, golden.name);
  return result;
}

}  // namespace

void add_image_ops(GoldenOps& ops) {
  ops["image_processor"] = image_processor;
  ops["image_file"] = image_file;
}

}  // namespace tessera::golden
