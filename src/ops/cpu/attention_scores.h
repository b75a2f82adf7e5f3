#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "ops/cpu/attention_kernel.h"
#include "ops/cpu/vectors.h"

/// Softmax and its gradient over a block of scores: what the attention kernels do between their products. For
/// their .cpp files alone.

namespace tessera::ops::cpu {

inline constexpr float kLowestScore = -std::numeric_limits<float>::infinity();

/// Scores of the queries first … first + rows, a row of `padded` numbers each, of which `keys` count.
struct ScoreBlock {
  float* data;
  std::int64_t first, rows, keys, padded;

  float* row(std::int64_t i) const { return data + i * padded; }
};

/// What becomes of a product QKᵀ before the softmax.
struct ScoreRule {
  float scale;
  bool is_causal;
  const float* bias;         ///< null, or of this batch row
  std::int64_t bias_stride;  ///< from query to query

  template <typename Number>
  static ScoreRule of(const AttentionInput<Number>& input, std::int64_t batch) {
    const AttentionBias& bias = input.bias;
    return {input.scale, input.is_causal, bias.data == nullptr ? nullptr : bias.data + batch * bias.batch,
            bias.query};
  }
};

/// Scaled, with the bias, −inf where none may be read.
/// @param bias  to work in: [padded], −inf in the columns behind the keys
template <std::int64_t kBytes>
TESSERA_INLINE void finish_scores(const ScoreBlock& block, const ScoreRule& rule, float* bias) {
  using V = Vectors<float, kBytes>;
  for (std::int64_t i = 0; i < block.rows; ++i) {
    if (i == 0 || rule.bias_stride != 0) {
      const float* given = rule.bias == nullptr ? nullptr : rule.bias + (block.first + i) * rule.bias_stride;
      for (std::int64_t j = 0; j < block.keys; ++j) bias[j] = given == nullptr ? 0 : given[j];
    }
    float* scores = block.row(i);
    for (std::int64_t j = 0; j < block.padded; j += V::kLanes) {
      typename V::Values score, added;
      load_vector(score, scores + j);
      load_vector(added, bias + j);
      store_vector(score * rule.scale + added, scores + j);
    }
    if (rule.is_causal) {
      for (std::int64_t j = block.first + i + 1; j < block.keys; ++j) scores[j] = kLowestScore;
    }
  }
}

/// exp(score − greatest) in place.
/// @param log_sum  ln Σ exp(score); +∞ for a query that may read nothing, whose weights are then 0 in the
///                 backward pass too
/// @return 1 / Σ exp(score − greatest); 0 where nothing may be read
template <std::int64_t kBytes>
TESSERA_INLINE float exponentials(float* scores, std::int64_t padded, float& log_sum) {
  using V = Vectors<float, kBytes>;
  typename V::Values score, greatest = typename V::Values{} + kLowestScore, sum = {};
  for (std::int64_t j = 0; j < padded; j += V::kLanes) {
    load_vector(score, scores + j);
    greatest = score > greatest ? score : greatest;
  }
  spread_greatest<V::kLanes / 2>(greatest, V::kAllLanes);
  greatest = greatest == kLowestScore ? typename V::Values{} : greatest;
  for (std::int64_t j = 0; j < padded; j += V::kLanes) {
    load_vector(score, scores + j);
    score -= greatest;
    exp_not_positive<V>(score);
    sum += score;
    store_vector(score, scores + j);
  }
  spread_sum<V::kLanes / 2>(sum, V::kAllLanes);
  // Nothing read is 0, as LibTorch has it.
  const bool reads = sum[0] != 0;
  log_sum = reads ? greatest[0] + std::log(sum[0]) : -kLowestScore;
  return reads ? 1.0F / sum[0] : 0.0F;
}

/// P = exp(score − log_sum) in place.
/// @return Σ P · dP
template <std::int64_t kBytes>
TESSERA_INLINE float weights_again(float* scores, const float* weight_gradients, std::int64_t padded,
                                   float log_sum) {
  using V = Vectors<float, kBytes>;
  typename V::Values weight, gradient, product = {};
  for (std::int64_t j = 0; j < padded; j += V::kLanes) {
    load_vector(weight, scores + j);
    load_vector(gradient, weight_gradients + j);
    weight -= log_sum;
    exp_not_positive<V>(weight);
    product += weight * gradient;
    store_vector(weight, scores + j);
  }
  spread_sum<V::kLanes / 2>(product, V::kAllLanes);
  return product[0];
}

}  // namespace tessera::ops::cpu
