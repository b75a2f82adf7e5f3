#pragma once

#include <ATen/core/Tensor.h>

#include "nn/linear.h"

namespace tessera::nn {

/// What a transformer block's feed-forward half is made of.
struct FeedForwardModules {
  at::Tensor norm_weight;  ///< [C]
  at::Tensor norm_bias;    ///< [C]: layer norm; undefined: RMS norm
  double eps = 0;
  LinearImpl* gate = nullptr;  ///< C → F, SwiGLU; null: GELU
  LinearImpl* up = nullptr;    ///< C → F
  LinearImpl* down = nullptr;  ///< F → C
};

/// x + down(activation(up(norm(x)))): ops::feed_forward by the modules' weights, or where one of them has an
/// adapter in use the same formula product by product.
/// @param x […, C] → […, C]
at::Tensor feed_forward(const at::Tensor& x, const FeedForwardModules& modules);

}  // namespace tessera::nn
