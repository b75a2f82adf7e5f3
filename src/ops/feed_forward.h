#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

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
/// One kernel each way outside autocast where there is one (on the CPU in float32, for weights that are small
/// enough for the second-level cache; cpu/kernels.h), otherwise the same from the operations of this folder
/// and LibTorch's. Differentiable once where it is ours.
///
/// @param x […, C]
/// @return […, C]
at::Tensor feed_forward(const at::Tensor& x, const FeedForward& parameters);

/// Whether it is one kernel for products in `dtype`, C = width and F = inner; under autocast it never is. The
/// kernel keeps x and the up (and gate) projection for the backward pass; otherwise each operation keeps its
/// own, a product its input.
bool feed_forward_is_one_kernel(c10::Device device, c10::ScalarType dtype, std::int64_t width,
                                std::int64_t inner);

}  // namespace tessera::ops
