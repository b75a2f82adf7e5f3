#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tessera::ops {

/// A transformer block's feed-forward half. All float tensors of one dtype and device.
struct FeedForward {
  at::Tensor norm_weight;  ///< [C]
  at::Tensor norm_bias;    ///< [C]: layer norm; undefined: RMS norm
  double eps = 0;
  at::Tensor gate;       ///< [F, C]: SwiGLU (Shazeer 2020); undefined: GELU
  at::Tensor up;         ///< [F, C]
  at::Tensor up_bias;    ///< [F] or undefined
  at::Tensor down;       ///< [C, F]
  at::Tensor down_bias;  ///< [C] or undefined
};

/// x + down(activation(up(norm(x)))), pre-norm and with its residual.
///
/// On the CPU in float32, outside autocast and where the weights are small enough for the second-level cache,
/// one kernel each way: a thread takes a block of rows through all of it before it takes the next, so that
/// what lies between is never written to memory but for the up projection, and gathers the weights' gradients
/// on the way. Otherwise the same from LibTorch's operations. Differentiable once where it is ours.
///
/// @param x […, C]
/// @return […, C]
at::Tensor feed_forward(const at::Tensor& x, const FeedForward& parameters);

/// Whether the kernel takes C = width and F = inner, where device and precision allow it. It keeps x and the
/// up (and gate) projection for the backward pass; LibTorch's operations keep every product's input.
bool feed_forward_kernel_serves(std::int64_t width, std::int64_t inner);

}  // namespace tessera::ops
