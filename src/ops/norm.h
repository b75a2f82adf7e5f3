#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::ops {

/// Root-mean-square normalisation over the last dimension (Zhang and Sennrich 2019):
/// x / sqrt(mean(x²) + eps) · weight.
///
/// Where there is a kernel (on the CPU in float32, for rows of whole vectors) one pass forward and one
/// backward, differentiable once; elsewhere at::rms_norm.
///
/// @param x       […, C]
/// @param weight  [C], the dtype of x
/// @return the shape of x
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace tessera::ops
