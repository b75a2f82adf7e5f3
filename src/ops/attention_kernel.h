#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tessera::ops {

/// Attention over short sequences on the CPU, float32. LibTorch's kernel copies operands into its own layout
/// and calls a library's GEMM on pieces of a few thousand numbers; here the operands stay where the
/// projections wrote them, and what lies between the products never leaves the first-level cache. A batch
/// row's head is computed by one thread in an order of its own, so that a result depends neither on the
/// number of threads nor on what else is in the batch.
///
/// Softmax weights are not kept: the backward pass computes them again from the logarithms of the sums, which
/// is cheaper than writing and reading them.

/// Where a [B, T, heads, D] operand lies; the last dimension is contiguous.
struct AttentionOperand {
  float* data = nullptr;
  std::int64_t batch = 0, token = 0, head = 0;  ///< strides
  std::int64_t tokens = 0;

  explicit AttentionOperand(const at::Tensor& tensor);
};

/// Added to the scores: [1 or B, 1, 1 or T, S] float32, −inf where a key may not be read.
struct AttentionBias {
  const float* data = nullptr;        ///< null: nothing is added
  std::int64_t batch = 0, query = 0;  ///< strides, 0 where all share
};

/// softmax(scale · QKᵀ + bias) V
struct AttentionInput {
  AttentionOperand query, key, value;
  AttentionBias bias;
  std::int64_t batch = 0, heads = 0, head_size = 0;
  float scale = 1;
  bool is_causal = false;  ///< query i reads keys 0 … i
};

/// Whether the kernels below can compute this: float32 on the CPU, a head size of whole vectors, and keys few
/// enough for a block of scores to stay in the cache.
bool attention_kernel_serves(const at::Tensor& query, const at::Tensor& key);

/// @param output    [B, T, heads, D]
/// @param log_sums  [B, heads, T]: ln Σ exp(score), for the backward pass
void attention_forward(const AttentionInput& input, const AttentionOperand& output, float* log_sums);

struct AttentionGradients {
  AttentionOperand query, key, value;  ///< written to, whatever they held
};

void attention_backward(const AttentionInput& input, const float* log_sums,
                        const AttentionOperand& grad_output, const AttentionGradients& gradients);

}  // namespace tessera::ops
