#include <ATen/ATen.h>

#include <opencv2/core/mat.hpp>

#include "core/error.h"
#include "data/image_processor.h"
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

}  // namespace

void add_image_ops(GoldenOps& ops) { ops["image_processor"] = image_processor; }

}  // namespace tessera::golden
