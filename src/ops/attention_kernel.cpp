#include "ops/attention_kernel.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/matrix_kernel.h"
#include "ops/vectors.h"

namespace tessera::ops {
namespace {

constexpr float kLowest = -std::numeric_limits<float>::infinity();

/// Queries computed together: their scores, 64 × 512 at most, stay in the second-level cache.
constexpr std::int64_t kQueryBlock = 64;
constexpr std::int64_t kMostKeys = 512;

// --- One head of one batch row ---

/// What one thread works in.
struct Scratch {
  explicit Scratch(const AttentionInput& input)
      : padded(whole_vectors<float>(input.key.tokens)),
        key_columns(static_cast<std::size_t>(input.head_size * padded)),
        scores(static_cast<std::size_t>(std::min(kQueryBlock, input.query.tokens) * padded)),
        bias(static_cast<std::size_t>(padded), kLowest) {}

  std::int64_t padded;             ///< keys, rounded up to whole vectors
  std::vector<float> key_columns;  ///< [D, padded], 0 in the last columns
  std::vector<float> scores;       ///< [queries of a block, padded]
  std::vector<float> bias;         ///< [padded], −inf in the last columns
};

/// What the backward pass needs beside.
struct GradientScratch : Scratch {
  explicit GradientScratch(const AttentionInput& input)
      : Scratch(input), value_columns(key_columns.size()), score_gradients(scores.size()) {}

  std::vector<float> value_columns;    ///< like key_columns
  std::vector<float> score_gradients;  ///< like scores
};

/// One head's rows of an operand.
struct Rows {
  float* data;
  std::int64_t stride, count;
};

TESSERA_INLINE Rows rows_of(const AttentionOperand& operand, std::int64_t batch, std::int64_t head) {
  return {operand.data + batch * operand.batch + head * operand.head, operand.token, operand.tokens};
}

TESSERA_INLINE void write_columns(const Rows& rows, std::int64_t head_size, std::int64_t padded,
                                  std::vector<float>& columns) {
  for (std::int64_t token = 0; token < rows.count; ++token) {
    const float* from = rows.data + token * rows.stride;
    for (std::int64_t i = 0; i < head_size; ++i)
      columns[static_cast<std::size_t>(i * padded + token)] = from[i];
  }
}

/// What a head's passes share: its operands, and the block of queries at hand.
struct HeadPass {
  const AttentionInput& input;
  Rows query, key, value;
  const float* bias;         ///< null, or of this batch row
  std::int64_t bias_stride;  ///< from query to query
};

/// Scores of queries first … first + count into scratch.scores, scaled, with the bias, −inf where none may be
/// read.
template <std::int64_t kBytes>
TESSERA_INLINE void block_scores(const HeadPass& pass, std::int64_t first, std::int64_t count,
                                 Scratch& scratch) {
  using Target = RegistersOf<kBytes>;
  using Floats = typename Target::V::Values;
  constexpr std::int64_t kLanes = Target::kLanes;
  const std::int64_t padded = scratch.padded;
  Target::multiply(count, padded, Left{pass.query.data + first * pass.query.stride, pass.query.stride, 1},
                   Right{scratch.key_columns.data(), padded}, Result{scratch.scores.data(), padded},
                   pass.input.head_size);
  for (std::int64_t i = 0; i < count; ++i) {
    if (i == 0 || pass.bias_stride != 0) {
      const float* bias = pass.bias == nullptr ? nullptr : pass.bias + (first + i) * pass.bias_stride;
      for (std::int64_t j = 0; j < pass.key.count; ++j) {
        scratch.bias[static_cast<std::size_t>(j)] = bias == nullptr ? 0 : bias[j];
      }
    }
    float* scores = scratch.scores.data() + i * padded;
    for (std::int64_t j = 0; j < padded; j += kLanes) {
      Floats score, bias;
      load_vector(score, scores + j);
      load_vector(bias, scratch.bias.data() + j);
      store_vector(score * pass.input.scale + bias, scores + j);
    }
    if (pass.input.is_causal) {
      for (std::int64_t j = first + i + 1; j < pass.key.count; ++j) scores[j] = kLowest;
    }
  }
}

template <std::int64_t kBytes>
TESSERA_INLINE void head_forward_with(const HeadPass& pass, const Rows& output, float* log_sums,
                                      Scratch& scratch) {
  using Target = RegistersOf<kBytes>;
  using Floats = typename Target::V::Values;
  constexpr std::int64_t kLanes = Target::kLanes;
  const std::int64_t padded = scratch.padded;
  write_columns(pass.key, pass.input.head_size, padded, scratch.key_columns);
  for (std::int64_t first = 0; first < pass.query.count; first += kQueryBlock) {
    const std::int64_t count = std::min(kQueryBlock, pass.query.count - first);
    block_scores<kBytes>(pass, first, count, scratch);
    for (std::int64_t i = 0; i < count; ++i) {
      float* scores = scratch.scores.data() + i * padded;
      Floats score, greatest = Floats{} + kLowest, sum = {};
      for (std::int64_t j = 0; j < padded; j += kLanes) {
        load_vector(score, scores + j);
        greatest = score > greatest ? score : greatest;
      }
      spread_greatest<kLanes / 2>(greatest, Vectors<float, kBytes>::kAllLanes);
      greatest = greatest == kLowest ? Floats{} : greatest;  // a query that may read nothing
      for (std::int64_t j = 0; j < padded; j += kLanes) {
        load_vector(score, scores + j);
        score -= greatest;
        exp_not_positive<Vectors<float, kBytes>>(score);
        sum += score;
        store_vector(score, scores + j);
      }
      spread_sum<kLanes / 2>(sum, Vectors<float, kBytes>::kAllLanes);
      // Nothing read is 0, as LibTorch has it: all weights are 0, here and, by the +∞, in the backward pass.
      const bool reads = sum[0] != 0;
      log_sums[first + i] = reads ? greatest[0] + std::log(sum[0]) : -kLowest;
      const Floats inverse = (reads ? 1.0F : 0.0F) / (reads ? sum : Floats{} + 1.0F);
      for (std::int64_t j = 0; j < padded; j += kLanes) {
        load_vector(score, scores + j);
        store_vector(score * inverse, scores + j);
      }
    }
    Target::multiply(count, pass.input.head_size, Left{scratch.scores.data(), padded, 1},
                     Right{pass.value.data, pass.value.stride},
                     Result{output.data + first * output.stride, output.stride}, pass.key.count);
  }
}

/// P = exp(score − log_sum); dS = P · (dP − Σ P · dP) · scale, which is the gradient of q·k.
template <std::int64_t kBytes>
TESSERA_INLINE void score_gradients(const HeadPass& pass, const float* log_sums, std::int64_t count,
                                    GradientScratch& scratch) {
  using Floats = typename Vectors<float, kBytes>::Values;
  constexpr std::int64_t kLanes = Vectors<float, kBytes>::kLanes;
  const std::int64_t padded = scratch.padded;
  for (std::int64_t i = 0; i < count; ++i) {
    float* weights = scratch.scores.data() + i * padded;
    float* gradients = scratch.score_gradients.data() + i * padded;
    Floats weight, gradient, product = {};
    for (std::int64_t j = 0; j < padded; j += kLanes) {
      load_vector(weight, weights + j);
      load_vector(gradient, gradients + j);
      weight -= log_sums[i];
      exp_not_positive<Vectors<float, kBytes>>(weight);
      product += weight * gradient;
      store_vector(weight, weights + j);
    }
    spread_sum<kLanes / 2>(product, Vectors<float, kBytes>::kAllLanes);
    for (std::int64_t j = 0; j < padded; j += kLanes) {
      load_vector(weight, weights + j);
      load_vector(gradient, gradients + j);
      store_vector(weight * (gradient - product) * pass.input.scale, gradients + j);
    }
  }
}

struct HeadGradients {
  Rows output, query, key, value;
};

template <std::int64_t kBytes>
TESSERA_INLINE void head_backward_with(const HeadPass& pass, const float* log_sums,
                                       const HeadGradients& gradients, GradientScratch& scratch) {
  using Target = RegistersOf<kBytes>;
  const std::int64_t padded = scratch.padded;
  const std::int64_t size = pass.input.head_size;
  write_columns(pass.key, size, padded, scratch.key_columns);
  write_columns(pass.value, size, padded, scratch.value_columns);
  for (std::int64_t first = 0; first < pass.query.count; first += kQueryBlock) {
    const std::int64_t count = std::min(kQueryBlock, pass.query.count - first);
    const float* grad_output = gradients.output.data + first * gradients.output.stride;
    block_scores<kBytes>(pass, first, count, scratch);
    Target::multiply(count, padded, Left{grad_output, gradients.output.stride, 1},
                     Right{scratch.value_columns.data(), padded},
                     Result{scratch.score_gradients.data(), padded}, size);
    score_gradients<kBytes>(pass, log_sums + first, count, scratch);
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

TESSERA_KERNEL(void, head_forward,
               (const HeadPass& pass, const Rows& output, float* log_sums, Scratch& scratch),
               (pass, output, log_sums, scratch))
TESSERA_KERNEL(void, head_backward,
               (const HeadPass& pass, const float* log_sums, const HeadGradients& gradients,
                GradientScratch& scratch),
               (pass, log_sums, gradients, scratch))

HeadPass pass_of(const AttentionInput& input, std::int64_t batch, std::int64_t head) {
  const AttentionBias& bias = input.bias;
  return {input,
          rows_of(input.query, batch, head),
          rows_of(input.key, batch, head),
          rows_of(input.value, batch, head),
          bias.data == nullptr ? nullptr : bias.data + batch * bias.batch,
          bias.query};
}

}  // namespace

AttentionOperand::AttentionOperand(const at::Tensor& tensor)
    : data(tensor.data_ptr<float>()),
      batch(tensor.stride(0)),
      token(tensor.stride(1)),
      head(tensor.stride(2)),
      tokens(tensor.size(1)) {
  TORCH_INTERNAL_ASSERT(tensor.stride(3) == 1);
}

bool attention_kernel_serves(const at::Tensor& query, const at::Tensor& key) {
  return query.is_cpu() && query.scalar_type() == at::kFloat &&
         query.size(3) == whole_vectors<float>(query.size(3)) && query.numel() > 0 && key.size(1) > 0 &&
         key.size(1) <= kMostKeys;
}

void attention_forward(const AttentionInput& input, const AttentionOperand& output, float* log_sums) {
  at::parallel_for(0, input.batch * input.heads, 1, [&](std::int64_t begin, std::int64_t end) {
    Scratch scratch(input);
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t batch = unit / input.heads, head = unit % input.heads;
      head_forward(pass_of(input, batch, head), rows_of(output, batch, head),
                   log_sums + unit * input.query.tokens, scratch);
    }
  });
}

void attention_backward(const AttentionInput& input, const float* log_sums,
                        const AttentionOperand& grad_output, const AttentionGradients& gradients) {
  at::parallel_for(0, input.batch * input.heads, 1, [&](std::int64_t begin, std::int64_t end) {
    GradientScratch scratch(input);
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t batch = unit / input.heads, head = unit % input.heads;
      const HeadGradients of_head{rows_of(grad_output, batch, head), rows_of(gradients.query, batch, head),
                                  rows_of(gradients.key, batch, head), rows_of(gradients.value, batch, head)};
      head_backward(pass_of(input, batch, head), log_sums + unit * input.query.tokens, of_head, scratch);
    }
  });
}

}  // namespace tessera::ops
