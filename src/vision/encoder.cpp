#include "vision/encoder.h"

#include <ATen/ATen.h>

namespace tessera::vision {

at::Tensor VisionEncoder::pooled(const at::Tensor& tokens) const {
  return first_patch() > 0 ? tokens.slice(1, 0, 1) : tokens.mean(1, /*keepdim=*/true);
}

}  // namespace tessera::vision
