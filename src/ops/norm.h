#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::ops {

/// Root-mean-square normalisation over the last dimension (Zhang and Sennrich 2019):
/// x / sqrt(mean(x²) + eps) · weight.
///
/// On the CPU in float32 and for rows of whole vectors one pass forward and one backward, differentiable
/// once; LibTorch composes it there from ten operations and takes several times as long as its own
/// layer_norm. Elsewhere at::rms_norm.
///
/// @param x       […, C]
/// @param weight  [C], the dtype of x
/// @return the shape of x
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

}  // namespace tessera::ops
