#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::language {

/// Root-mean-square normalisation over the last dimension (Zhang and Sennrich 2019):
/// x / sqrt(mean(x²) + eps) · weight.
///
/// On the CPU in float32 and float64 it is one pass forward and one backward; LibTorch composes it there from
/// ten operations and takes several times as long as its own layer_norm. Elsewhere LibTorch's at::rms_norm
/// computes it. Differentiable once.
///
/// @param x       […, C]
/// @param weight  [C], the dtype of x
/// @return the shape of x
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);

/// Rotary position embedding (Su et al. 2021) in Hugging Face's convention: of each head's D values, the i-th
/// of the first half and the i-th of the second half are a pair, turned by angle [t, i]. One pass each way on
/// the CPU in float32 and float64. Differentiable once; the angles get no gradient.
///
/// @param x         [B, T, heads, D], D even
/// @param cos, sin  [T, D/2], the dtype of x or float32
/// @return [B, T, heads, D], dtype of x
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

}  // namespace tessera::language
