#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace tessera::ops {

/// Rotary position embedding (Su et al. 2021) in Hugging Face's convention: of each head's D values, the i-th
/// of the first half and the i-th of the second half are a pair, turned by angle [t, i]. One pass each way
/// where there is a kernel (on the CPU in float32 and float64). Differentiable once; the angles get no
/// gradient.
///
/// @param x         [B, T, heads, D], D even
/// @param cos, sin  [T, D/2], the dtype of x or float32
/// @return [B, T, heads, D], dtype of x
at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin);

/// The dtype in which attention among rotated tokens is computed best, of queries, keys and values that
/// projections write in `dtype`: on the CPU bfloat16 is widened to float32, which the rotation needs anyway,
/// and attention in bfloat16 after it would be no faster at a caption's length and less exact
/// (docs/model.md, Precision).
c10::ScalarType rotary_dtype(c10::Device device, c10::ScalarType dtype);

}  // namespace tessera::ops
