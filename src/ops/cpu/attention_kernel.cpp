#include "ops/cpu/attention_kernel.h"

#include <algorithm>
#include <vector>

#include "ops/cpu/attention_heads.h"
#include "ops/cpu/attention_scores.h"
#include "ops/cpu/matrix_kernel.h"
#include "ops/cpu/vectors.h"

namespace tessera::ops::cpu {
namespace {

using Input = AttentionInput<float>;
using Operand = AttentionOperand<float>;
using Rows = AttentionRows<float>;
using Pass = HeadPass<float>;
using Gradients = HeadGradients<float>;

constexpr std::int64_t kQueryBlock = kAttentionQueryBlock;

// --- One head of one batch row ---

/// What one thread works in.
struct Scratch {
  explicit Scratch(const Input& input)
      : padded(whole_vectors<float>(input.key.tokens)),
        key_columns(static_cast<std::size_t>(input.head_size * padded)),
        scores(static_cast<std::size_t>(std::min(kQueryBlock, input.query.tokens) * padded)),
        bias(static_cast<std::size_t>(padded), kLowestScore) {}

  std::int64_t padded;             ///< keys, rounded up to whole vectors
  std::vector<float> key_columns;  ///< [D, padded], 0 in the last columns
  std::vector<float> scores;       ///< [queries of a block, padded]
  std::vector<float> bias;         ///< [padded], −inf in the last columns
};

/// What the backward pass needs beside.
struct GradientScratch : Scratch {
  explicit GradientScratch(const Input& input)
      : Scratch(input), value_columns(key_columns.size()), score_gradients(scores.size()) {}

  std::vector<float> value_columns;    ///< like key_columns
  std::vector<float> score_gradients;  ///< like scores
};

TESSERA_INLINE void write_columns(const Rows& rows, std::int64_t head_size, std::int64_t padded,
                                  std::vector<float>& columns) {
  for (std::int64_t token = 0; token < rows.count; ++token) {
    const float* from = rows.data + token * rows.stride;
    for (std::int64_t i = 0; i < head_size; ++i)
      columns[static_cast<std::size_t>(i * padded + token)] = from[i];
  }
}

/// Scores of a block of queries into scratch.scores.
template <std::int64_t kBytes>
TESSERA_INLINE ScoreBlock block_scores(const Pass& pass, std::int64_t first, Scratch& scratch) {
  const std::int64_t padded = scratch.padded;
  const ScoreBlock block{scratch.scores.data(), first, std::min(kQueryBlock, pass.query.count - first),
                         pass.key.count, padded};
  RegistersOf<kBytes>::multiply(
      block.rows, padded, Left{pass.query.data + first * pass.query.stride, pass.query.stride, 1},
      Right{scratch.key_columns.data(), padded}, Result{block.data, padded}, pass.input.head_size);
  finish_scores<kBytes>(block, pass.rule, scratch.bias.data());
  return block;
}

template <std::int64_t kBytes>
TESSERA_INLINE void head_forward_with(const Pass& pass, const Rows& output, float* log_sums,
                                      Scratch& scratch) {
  using Target = RegistersOf<kBytes>;
  using Floats = typename Target::V::Values;
  const std::int64_t padded = scratch.padded;
  write_columns(pass.key, pass.input.head_size, padded, scratch.key_columns);
  for (std::int64_t first = 0; first < pass.query.count; first += kQueryBlock) {
    const ScoreBlock block = block_scores<kBytes>(pass, first, scratch);
    for (std::int64_t i = 0; i < block.rows; ++i) {
      float* scores = block.row(i);
      const float inverse = exponentials<kBytes>(scores, padded, log_sums[first + i]);
      for (std::int64_t j = 0; j < padded; j += Target::kLanes) {
        Floats score;
        load_vector(score, scores + j);
        store_vector(score * inverse, scores + j);
      }
    }
    Target::multiply(block.rows, pass.input.head_size, Left{block.data, padded, 1},
                     Right{pass.value.data, pass.value.stride},
                     Result{output.data + first * output.stride, output.stride}, pass.key.count);
  }
}

/// P = exp(score − log_sum); dS = P · (dP − Σ P · dP) · scale, which is the gradient of q·k.
template <std::int64_t kBytes>
TESSERA_INLINE void score_gradients(const Pass& pass, const float* log_sums, const ScoreBlock& block,
                                    GradientScratch& scratch) {
  using Floats = typename Vectors<float, kBytes>::Values;
  for (std::int64_t i = 0; i < block.rows; ++i) {
    float* weights = block.row(i);
    float* gradients = scratch.score_gradients.data() + i * block.padded;
    const float product = weights_again<kBytes>(weights, gradients, block.padded, log_sums[i]);
    for (std::int64_t j = 0; j < block.padded; j += Vectors<float, kBytes>::kLanes) {
      Floats weight, gradient;
      load_vector(weight, weights + j);
      load_vector(gradient, gradients + j);
      store_vector(weight * (gradient - product) * pass.rule.scale, gradients + j);
    }
  }
}

template <std::int64_t kBytes>
TESSERA_INLINE void head_backward_with(const Pass& pass, const float* log_sums, const Gradients& gradients,
                                       GradientScratch& scratch) {
  using Target = RegistersOf<kBytes>;
  const std::int64_t padded = scratch.padded;
  const std::int64_t size = pass.input.head_size;
  write_columns(pass.key, size, padded, scratch.key_columns);
  write_columns(pass.value, size, padded, scratch.value_columns);
  for (std::int64_t first = 0; first < pass.query.count; first += kQueryBlock) {
    const float* grad_output = gradients.output.data + first * gradients.output.stride;
    const ScoreBlock block = block_scores<kBytes>(pass, first, scratch);
    const std::int64_t count = block.rows;
    Target::multiply(count, padded, Left{grad_output, gradients.output.stride, 1},
                     Right{scratch.value_columns.data(), padded},
                     Result{scratch.score_gradients.data(), padded}, size);
    score_gradients<kBytes>(pass, log_sums + first, block, scratch);
    Target::multiply(count, size, Left{scratch.score_gradients.data(), padded, 1},
                     Right{pass.key.data, pass.key.stride},
                     Result{gradients.query.data + first * gradients.query.stride, gradients.query.stride},
                     pass.key.count);
    // Keys and values gather from all queries: the first block writes, the others add.
    const auto gathered = [&](const Rows& rows) {
      return first > 0 ? Addend{rows.data, rows.stride} : Addend{};
    };
    Target::multiply(pass.key.count, size, Left{scratch.score_gradients.data(), 1, padded},
                     Right{pass.query.data + first * pass.query.stride, pass.query.stride},
                     Result{gradients.key.data, gradients.key.stride}, count, gathered(gradients.key));
    Target::multiply(pass.key.count, size, Left{scratch.scores.data(), 1, padded},
                     Right{grad_output, gradients.output.stride},
                     Result{gradients.value.data, gradients.value.stride}, count, gathered(gradients.value));
  }
}

TESSERA_KERNEL(void, head_forward, (const Pass& pass, const Rows& output, float* log_sums, Scratch& scratch),
               (pass, output, log_sums, scratch))
TESSERA_KERNEL(void, head_backward,
               (const Pass& pass, const float* log_sums, const Gradients& gradients,
                GradientScratch& scratch),
               (pass, log_sums, gradients, scratch))

}  // namespace

template <>
void attention_forward(const Input& input, const Operand& output, float* log_sums) {
  forward_heads<Scratch>(input, output, log_sums, head_forward);
}

template <>
void attention_backward(const Input& input, const float* log_sums, const Operand& grad_output,
                        const AttentionGradients<float>& gradients) {
  backward_heads<GradientScratch>(input, log_sums, grad_output, gradients, head_backward);
}

}  // namespace tessera::ops::cpu
