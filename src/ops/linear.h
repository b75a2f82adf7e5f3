#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::ops {

/// x · weightᵀ + bias. On the CPU in float32, outside autocast and for many rows, by our own matrix product,
/// forward and backward one node each; otherwise at::linear. Differentiable once where it is ours.
///
/// @param x      […, in]
/// @param weight [out, in]
/// @param bias   [out] or undefined
/// @return […, out]
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

/// Whether x is where our matrix product runs: float32 on the CPU outside autocast.
bool in_full_precision_on_cpu(const at::Tensor& x);

}  // namespace tessera::ops
