#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>

/// What a device's kernel of ops/norm.h is made of (ops/kernels.h). All tensors are contiguous and of one
/// dtype; none has a size of 0.

namespace tessera::ops {

struct RmsNormForward {
  at::Tensor y;           ///< the shape of x
  at::Tensor statistics;  ///< of the rows, as the backward pass wants them
};

struct RmsNormGradients {
  at::Tensor x, weight;
};

/// x […, C] / sqrt(mean(x²) + eps) · weight [C]
struct RmsNormKernel {
  /// @param width  C
  bool (*serves)(c10::ScalarType dtype, std::int64_t width);
  RmsNormForward (*forward)(const at::Tensor& x, const at::Tensor& weight, double eps);
  RmsNormGradients (*backward)(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                               double eps, const at::Tensor& statistics);
};

}  // namespace tessera::ops
