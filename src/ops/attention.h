#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>

namespace tessera::ops {

/// softmax(QKᵀ/√D + bias) V, in the precision and by the code that is fast where it runs:
/// - on the CPU in float32, or in bfloat16 on a processor that multiplies it, and for heads of whole vectors,
///   a kernel of our own (cpu/kernels.h);
/// - otherwise at::scaled_dot_product_attention;
/// - on the CPU under bfloat16 autocast, where that kernel doesn't serve, the attention itself is computed in
///   float32, because the backward pass of LibTorch's bfloat16 kernel is several times slower (measured,
///   docs/results.md).
///
/// Operands are token-major, as projections write them, so that none has to be copied. Differentiable once.
///
/// @param query       [B, T, heads, D]
/// @param key, value  [B, S, heads, D]
/// @param bias        undefined, or [1 or B, 1, 1 or T, S] without gradient, added to the scores
/// @param is_causal   query i reads keys 0 … i
/// @return [B, T, heads, D], the dtype of `query`; 0 for a query that may read nothing
at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const at::Tensor& bias = {}, bool is_causal = false);

/// Attention within a sequence whose projections are one tensor, which then has one gradient.
///
/// @param query_key_value [B, T, 3, heads, D]
/// @return [B, T, heads, D]
at::Tensor self_attention(const at::Tensor& query_key_value);

/// Attention to another sequence.
///
/// @param query     [B, T, heads, D]
/// @param key_value [B, S, 2, heads, D]
/// @param bias      as above
/// @return [B, T, heads, D]
at::Tensor cross_attention(const at::Tensor& query, const at::Tensor& key_value, const at::Tensor& bias = {});

/// What attention keeps for its backward pass.
struct AttentionKept {
  c10::ScalarType dtype;  ///< of query, key and value
  bool output;            ///< and the output in the same dtype
};

/// Of operands that projections write in `dtype` (bfloat16 is autocast's), of as few tokens as kernels take.
AttentionKept attention_keeps(c10::Device device, c10::ScalarType dtype, std::int64_t head_size);

}  // namespace tessera::ops
