#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::ops {

/// x · weightᵀ + bias. Outside autocast by our own matrix product where there is one (on the CPU in float32,
/// for many rows), forward and backward one node each; otherwise at::linear. Differentiable once where it is
/// ours.
///
/// @param x      […, in]
/// @param weight [out, in]
/// @param bias   [out] or undefined
/// @return […, out]
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias = {});

}  // namespace tessera::ops
