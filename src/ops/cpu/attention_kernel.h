#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tessera::ops::cpu {

/// Attention over short sequences on the CPU. LibTorch's kernel copies operands into its own layout
/// and calls a library's GEMM on pieces of a few thousand numbers; here the operands stay where the
/// projections wrote them, and what lies between the products never leaves the first-level cache. A batch
/// row's head is computed by one thread in an order of its own, so that a result depends neither on the
/// number of threads nor on what else is in the batch.
///
/// Softmax weights are not kept: the backward pass computes them again from the logarithms of the sums, which
/// is cheaper than writing and reading them.

/// One head's rows of an operand: [count, D].
template <typename Number>
struct AttentionRows {
  Number* data;
  std::int64_t stride, count;
};

/// Queries computed together: their scores, 64 × 512 at most, stay in the second-level cache.
inline constexpr std::int64_t kAttentionQueryBlock = 64;
inline constexpr std::int64_t kMostAttentionKeys = 512;

/// Where a [B, T, heads, D] operand lies; the last dimension is contiguous.
/// @tparam Number  float or c10::BFloat16
template <typename Number>
struct AttentionOperand {
  Number* data = nullptr;
  std::int64_t batch = 0, token = 0, head = 0;  ///< strides
  std::int64_t tokens = 0;

  explicit AttentionOperand(const at::Tensor& tensor)
      : data(tensor.data_ptr<Number>()),
        batch(tensor.stride(0)),
        token(tensor.stride(1)),
        head(tensor.stride(2)),
        tokens(tensor.size(1)) {
    TORCH_INTERNAL_ASSERT(tensor.stride(3) == 1);
  }

  AttentionRows<Number> rows(std::int64_t batch_row, std::int64_t which_head) const {
    return {data + batch_row * batch + which_head * head, token, tokens};
  }
};

/// Added to the scores: [1 or B, 1, 1 or T, S] float32, −inf where a key may not be read.
struct AttentionBias {
  const float* data = nullptr;        ///< null: nothing is added
  std::int64_t batch = 0, query = 0;  ///< strides, 0 where all share
};

/// softmax(scale · QKᵀ + bias) V
template <typename Number>
struct AttentionInput {
  AttentionOperand<Number> query, key, value;
  AttentionBias bias;
  std::int64_t batch = 0, heads = 0, head_size = 0;
  float scale = 1;
  bool is_causal = false;  ///< query i reads keys 0 … i
};

template <typename Number>
struct AttentionGradients {
  AttentionOperand<Number> query, key, value;  ///< written to, whatever they held
};

/// In bfloat16 operands, softmax weights and their gradients are rounded to it before they are multiplied;
/// sums and what lies between are float32.
/// @param output    [B, T, heads, D]
/// @param log_sums  [B, heads, T]: ln Σ exp(score), for the backward pass
template <typename Number>
void attention_forward(const AttentionInput<Number>& input, const AttentionOperand<Number>& output,
                       float* log_sums);
template <typename Number>
void attention_backward(const AttentionInput<Number>& input, const float* log_sums,
                        const AttentionOperand<Number>& grad_output,
                        const AttentionGradients<Number>& gradients);

}  // namespace tessera::ops::cpu
