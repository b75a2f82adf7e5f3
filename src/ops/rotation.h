#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::ops {

/// Rotary position embedding (Su et al. 2021) in Hugging Face's convention: of each head's D values, the i-th
/// of the first half and the i-th of the second half are a pair, turned by angle [t, i]. One pass each way on
/// the CPU in float32 and float64. Differentiable once; the angles get no gradient.
///
/// @param x         [B, T, heads, D], D even
/// @param cos, sin  [T, D/2], the dtype of x or float32
/// @return [B, T, heads, D], dtype of x
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

}  // namespace tessera::ops
