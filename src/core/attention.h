#pragma once

#include <ATen/core/Tensor.h>

namespace tessera {

/// softmax(QKᵀ/√D + bias) V by at::scaled_dot_product_attention, in the precision that is fast where it runs:
/// on the CPU under bfloat16 autocast the attention itself is computed in float32, because the backward pass
/// of LibTorch's bfloat16 kernel is several times slower there than the float32 one (measured,
/// docs/results.md).
///
/// @param query, key, value  [B, heads, T, D]
/// @param bias               undefined, or broadcastable to [B, heads, T, T], added to the scores
/// @return [B, heads, T, D], the dtype of `query`
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const at::Tensor& bias = {}, bool is_causal = false);

}  // namespace tessera
