#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "ops/cpu/attention_heads.h"
#include "ops/cpu/attention_kernel.h"
#include "ops/cpu/attention_scores.h"
#include "ops/cpu/matrix_kernel.h"
#include "ops/cpu/vectors.h"

// The float32 kernel's passes with every product by vdpbf16ps, which multiplies pairs of bfloat16 and adds
// both products to a float32. So a product's inner dimension is counted in pairs: 32 bits that are moved
// about as one number. Rows of operands are pairs as they lie; where the inner dimension runs across rows,
// two rows are interleaved.

namespace tessera::ops::cpu {
namespace {

#if defined(__x86_64__) && defined(__GNUC__)

using Input = AttentionInput<c10::BFloat16>;
using Operand = AttentionOperand<c10::BFloat16>;
using Rows = AttentionRows<c10::BFloat16>;
using Pass = HeadPass<c10::BFloat16>;
using Gradients = HeadGradients<c10::BFloat16>;

constexpr std::int64_t kBytes = 64;
constexpr std::int64_t kQueryBlock = kAttentionQueryBlock;
using V = Vectors<float, kBytes>;
using Floats = V::Values;
using Words = V::Bits;
typedef std::uint16_t HalfWords __attribute__((vector_size(kBytes / 2)));

struct PairProducts {
  using Number = std::uint32_t;

  template <typename>
  static TESSERA_INLINE void add(Floats& sum, Number left, const Floats& right) {
    const Words everywhere = Words{} + left;
    // No intrinsic: an always-inlined function of no instruction set can't call one of another's.
    asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(right), "v"(everywhere));
  }
};
using Pairs = Registers<kBytes, 8, 6, 6, PairProducts>;

// --- Between float32 and pairs ---

/// Rounded to the nearest bfloat16, which is the upper half of each word; the lower half holds what is left
/// over. Infinities stay, and NaN as processors make them.
TESSERA_INLINE void rounded(const Floats& values, Words& words) {
  static_assert(sizeof(values) == sizeof(words));
  std::memcpy(&words, &values, sizeof(words));
  words += ((words >> 16) & 1) + 0x7fff;
}

/// 16 numbers one behind another.
TESSERA_INLINE void store_bfloat16(const Floats& values, c10::BFloat16* to) {
  Words words;
  rounded(values, words);
  const HalfWords halves = __builtin_convertvector(words >> 16, HalfWords);
  store_vector(halves, to);
}

/// Pairs of one row's numbers and the next row's.
TESSERA_INLINE void store_interleaved(const Floats& upper_row, const Floats& lower_row, float* to) {
  Words first, second;
  rounded(upper_row, first);
  rounded(lower_row, second);
  store_vector((first >> 16) | (second & 0xffff0000U), to);
}

/// The pairs of `rows`, column by column: [D/2, padded].
TESSERA_INLINE void write_columns(const Rows& rows, std::int64_t head_size, std::int64_t padded,
                                  std::vector<float>& columns) {
  for (std::int64_t token = 0; token < rows.count; ++token) {
    const c10::BFloat16* from = rows.data + token * rows.stride;
    for (std::int64_t i = 0; i < head_size / 2; ++i)
      std::memcpy(columns.data() + i * padded + token, from + 2 * i, sizeof(float));
  }
}

/// Rows two by two, their numbers interleaved: [⌈count/2⌉, D]. A last odd row is paired with zeros.
TESSERA_INLINE void interleave_rows(const c10::BFloat16* rows, std::int64_t stride, std::int64_t count,
                                    std::int64_t head_size, std::vector<float>& pairs) {
  for (std::int64_t row = 0; row < count; row += 2) {
    for (std::int64_t i = 0; i < head_size; i += V::kLanes) {
      HalfWords first, second = {};
      load_vector(first, rows + row * stride + i);
      if (row + 1 < count) load_vector(second, rows + (row + 1) * stride + i);
      const Words words =
          __builtin_convertvector(first, Words) | (__builtin_convertvector(second, Words) << 16);
      store_vector(words, pairs.data() + row / 2 * head_size + i);
    }
  }
}

/// The float32 rows of a block, times a number each, into an operand's.
TESSERA_INLINE void narrow_rows(const float* from, std::int64_t count, std::int64_t head_size,
                                const float* factors, c10::BFloat16* to, std::int64_t stride) {
  for (std::int64_t row = 0; row < count; ++row) {
    const float factor = factors == nullptr ? 1.0F : factors[row];
    for (std::int64_t i = 0; i < head_size; i += V::kLanes) {
      Floats values;
      load_vector(values, from + row * head_size + i);
      store_bfloat16(values * factor, to + row * stride + i);
    }
  }
}

// --- One head of one batch row ---

std::size_t size_of(std::int64_t rows, std::int64_t columns) {
  return static_cast<std::size_t>(rows * columns);
}

/// What one thread works in. "Pairs" are floats by their size alone.
struct Scratch {
  explicit Scratch(const Input& input)
      : padded(whole_vectors<float>(input.key.tokens)),
        block(std::min(kQueryBlock, input.query.tokens)),
        key_columns(size_of(input.head_size / 2, padded)),
        value_pairs(size_of(padded / 2, input.head_size)),
        scores(size_of(block, padded)),
        weights(size_of(block, padded)),
        bias(static_cast<std::size_t>(padded), kLowestScore),
        rows(size_of(block, input.head_size)),
        factors(static_cast<std::size_t>(block)) {}

  std::int64_t padded;                 ///< keys, rounded up to whole vectors
  std::int64_t block;                  ///< queries computed together
  std::vector<float> key_columns;      ///< pairs [D/2, padded], 0 in the last columns
  std::vector<float> value_pairs;      ///< pairs [padded/2, D]; in the backward pass of keys
  std::vector<float> scores;           ///< [block, padded]
  std::vector<c10::BFloat16> weights;  ///< [block, padded]; in the backward pass the scores' gradients
  std::vector<float> bias;             ///< [padded]
  std::vector<float> rows;             ///< [block, D]
  std::vector<float> factors;          ///< [block]
};

/// What the backward pass needs beside.
struct GradientScratch : Scratch {
  explicit GradientScratch(const Input& input)
      : Scratch(input),
        value_columns(key_columns.size()),
        score_gradients(scores.size()),
        weights_by_query(size_of((block + 1) / 2, padded)),
        gradients_by_query(weights_by_query.size()),
        query_pairs(size_of((block + 1) / 2, input.head_size)),
        output_pairs(query_pairs.size()),
        key_gradients(size_of(padded, input.head_size)),
        value_gradients(key_gradients.size()) {}

  std::vector<float> value_columns;       ///< like key_columns
  std::vector<float> score_gradients;     ///< like scores
  std::vector<float> weights_by_query;    ///< pairs [block/2, padded]: of one query's and the next's
  std::vector<float> gradients_by_query;  ///< the same of the scores' gradients
  std::vector<float> query_pairs;         ///< pairs [block/2, D]
  std::vector<float> output_pairs;        ///< the same of the output's gradient
  std::vector<float> key_gradients;       ///< [padded, D], gathered over the blocks
  std::vector<float> value_gradients;
};

/// Rows of pairs as they lie in an operand.
TESSERA_INLINE Left pairs_of(const c10::BFloat16* rows, std::int64_t stride) {
  return {reinterpret_cast<const float*>(rows), stride / 2, 1};
}

TESSERA_INLINE ScoreBlock block_scores(const Pass& pass, std::int64_t first, Scratch& scratch) {
  const std::int64_t padded = scratch.padded;
  const ScoreBlock block{scratch.scores.data(), first, std::min(kQueryBlock, pass.query.count - first),
                         pass.key.count, padded};
  Pairs::multiply(
      block.rows, padded, pairs_of(pass.query.data + first * pass.query.stride, pass.query.stride),
      Right{scratch.key_columns.data(), padded}, Result{block.data, padded}, pass.input.head_size / 2);
  finish_scores<kBytes>(block, pass.rule, scratch.bias.data());
  return block;
}

__attribute__((target("avx512f"))) void head_forward(const Pass& pass, const Rows& output, float* log_sums,
                                                     Scratch& scratch) {
  const std::int64_t padded = scratch.padded, size = pass.input.head_size;
  write_columns(pass.key, size, padded, scratch.key_columns);
  interleave_rows(pass.value.data, pass.value.stride, pass.value.count, size, scratch.value_pairs);
  for (std::int64_t first = 0; first < pass.query.count; first += kQueryBlock) {
    const ScoreBlock block = block_scores(pass, first, scratch);
    for (std::int64_t i = 0; i < block.rows; ++i) {
      float* scores = block.row(i);
      scratch.factors[static_cast<std::size_t>(i)] =
          exponentials<kBytes>(scores, padded, log_sums[first + i]);
      for (std::int64_t j = 0; j < padded; j += V::kLanes) {
        Floats score;
        load_vector(score, scores + j);
        store_bfloat16(score, scratch.weights.data() + i * padded + j);
      }
    }
    Pairs::multiply(block.rows, size, pairs_of(scratch.weights.data(), padded),
                    Right{scratch.value_pairs.data(), size}, Result{scratch.rows.data(), size},
                    (pass.key.count + 1) / 2);
    narrow_rows(scratch.rows.data(), block.rows, size, scratch.factors.data(),
                output.data + first * output.stride, output.stride);
  }
}

/// dS = P · (dP − Σ P · dP) · scale: the weights' and the scores' gradients' roundings, as the products that
/// follow read them.
TESSERA_INLINE void score_gradients(const Pass& pass, const float* log_sums, const ScoreBlock& block,
                                    GradientScratch& scratch) {
  const std::int64_t padded = block.padded;
  for (std::int64_t i = 0; i < block.rows; ++i) {
    scratch.factors[static_cast<std::size_t>(i)] =
        weights_again<kBytes>(block.row(i), scratch.score_gradients.data() + i * padded, padded, log_sums[i]);
  }
  for (std::int64_t i = 0; i < block.rows; i += 2) {
    const bool is_pair = i + 1 < block.rows;
    const float first_product = scratch.factors[static_cast<std::size_t>(i)];
    const float second_product = is_pair ? scratch.factors[static_cast<std::size_t>(i + 1)] : 0;
    const float* gradients = scratch.score_gradients.data() + i * padded;
    c10::BFloat16* rounded_gradients = scratch.weights.data() + i * padded;
    for (std::int64_t j = 0; j < padded; j += V::kLanes) {
      Floats weight, gradient, second_weight = {}, second_gradient = {};
      load_vector(weight, block.row(i) + j);
      load_vector(gradient, gradients + j);
      gradient = weight * (gradient - first_product) * pass.rule.scale;
      store_bfloat16(gradient, rounded_gradients + j);
      if (is_pair) {
        load_vector(second_weight, block.row(i + 1) + j);
        load_vector(second_gradient, gradients + padded + j);
        second_gradient = second_weight * (second_gradient - second_product) * pass.rule.scale;
        store_bfloat16(second_gradient, rounded_gradients + padded + j);
      }
      store_interleaved(weight, second_weight, scratch.weights_by_query.data() + i / 2 * padded + j);
      store_interleaved(gradient, second_gradient, scratch.gradients_by_query.data() + i / 2 * padded + j);
    }
  }
}

__attribute__((target("avx512f"))) void head_backward(const Pass& pass, const float* log_sums,
                                                      const Gradients& gradients, GradientScratch& scratch) {
  const std::int64_t padded = scratch.padded, size = pass.input.head_size, keys = pass.key.count;
  write_columns(pass.key, size, padded, scratch.key_columns);
  write_columns(pass.value, size, padded, scratch.value_columns);
  std::vector<float>& key_pairs = scratch.value_pairs;
  interleave_rows(pass.key.data, pass.key.stride, keys, size, key_pairs);
  for (std::int64_t first = 0; first < pass.query.count; first += kQueryBlock) {
    const ScoreBlock block = block_scores(pass, first, scratch);
    const c10::BFloat16* grad_output = gradients.output.data + first * gradients.output.stride;
    Pairs::multiply(block.rows, padded, pairs_of(grad_output, gradients.output.stride),
                    Right{scratch.value_columns.data(), padded},
                    Result{scratch.score_gradients.data(), padded}, size / 2);
    score_gradients(pass, log_sums + first, block, scratch);
    Pairs::multiply(block.rows, size, pairs_of(scratch.weights.data(), padded), Right{key_pairs.data(), size},
                    Result{scratch.rows.data(), size}, (keys + 1) / 2);
    narrow_rows(scratch.rows.data(), block.rows, size, nullptr,
                gradients.query.data + first * gradients.query.stride, gradients.query.stride);
    interleave_rows(pass.query.data + first * pass.query.stride, pass.query.stride, block.rows, size,
                    scratch.query_pairs);
    interleave_rows(grad_output, gradients.output.stride, block.rows, size, scratch.output_pairs);
    // Keys and values gather from all queries: the first block writes, the others add.
    const auto gather = [&](const std::vector<float>& by_query, const std::vector<float>& pairs,
                            std::vector<float>& sums) TESSERA_INLINED {
      Pairs::multiply(keys, size, Left{by_query.data(), 1, padded}, Right{pairs.data(), size},
                      Result{sums.data(), size}, (block.rows + 1) / 2,
                      first > 0 ? Addend{sums.data(), size} : Addend{});
    };
    gather(scratch.gradients_by_query, scratch.query_pairs, scratch.key_gradients);
    gather(scratch.weights_by_query, scratch.output_pairs, scratch.value_gradients);
  }
  narrow_rows(scratch.key_gradients.data(), keys, size, nullptr, gradients.key.data, gradients.key.stride);
  narrow_rows(scratch.value_gradients.data(), keys, size, nullptr, gradients.value.data,
              gradients.value.stride);
}

}  // namespace

template <>
void attention_forward(const Input& input, const Operand& output, float* log_sums) {
  forward_heads<Scratch>(input, output, log_sums, head_forward);
}

template <>
void attention_backward(const Input& input, const float* log_sums, const Operand& grad_output,
                        const AttentionGradients<c10::BFloat16>& gradients) {
  backward_heads<GradientScratch>(input, log_sums, grad_output, gradients, head_backward);
}

#else

}  // namespace

template <>
void attention_forward(const AttentionInput<c10::BFloat16>&, const AttentionOperand<c10::BFloat16>&, float*) {
  TORCH_CHECK(false, "attention: there is no bfloat16 kernel for this processor");
}
template <>
void attention_backward(const AttentionInput<c10::BFloat16>&, const float*,
                        const AttentionOperand<c10::BFloat16>&, const AttentionGradients<c10::BFloat16>&) {
  TORCH_CHECK(false, "attention: there is no bfloat16 kernel for this processor");
}

#endif

}  // namespace tessera::ops::cpu
