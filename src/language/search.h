#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "language/decode_step.h"

namespace tessera::language {

/// How a text is chosen. Names and meanings are those of Hugging Face's GenerationConfig.
struct SearchOptions {
  enum class Method {
    kGreedy,  ///< the most probable token each time
    kBeam,    ///< the beam_size best beginnings are kept; one of 1 is greedy
    kSample,  ///< drawn: temperature, then top_k, then top_p
  };

  Method method = Method::kGreedy;
  std::int64_t max_tokens = 32;     ///< new tokens, eos among them
  std::int64_t min_tokens = 0;      ///< eos is no choice before so many tokens
  double repetition_penalty = 1.0;  ///< of tokens that the row, prompt included, holds (Keskar et al. 2019)
  std::vector<std::int64_t> suppressed_tokens;  ///< never chosen, beside bos and pad

  std::int64_t beam_size = 4;
  double length_penalty = 1.0;  ///< a finished beam's score is (sum of log-probabilities) / length^penalty
  bool early_stopping = false;  ///< true: stop at beam_size finished ones, whatever could still come

  double temperature = 1.0;
  double top_p = 1.0;      ///< the fewest tokens that hold this share of the probability; 0: the first only
  std::int64_t top_k = 0;  ///< 0: all
  std::uint64_t seed = 0;
  /// Row i draws from stream first_stream + i, so that its text depends on nothing else of the batch.
  std::uint64_t first_stream = 0;

  /// @throws Error naming the option where a value is out of range
  void check(const std::string& source) const;
};

/// Ids with a meaning of their own; −1: there is none. bos and pad are never generated.
struct SpecialTokens {
  std::int64_t bos = 2;
  std::int64_t eos = 3;
  std::int64_t pad = 0;
};

struct GeneratedText {
  std::vector<std::int64_t> ids;  ///< the new tokens, without eos
  /// Sum over the new tokens, eos among them, of their log-probability by the model, before any option
  /// changes it.
  double log_probability = 0.0;
  /// What beam search ranks by: the sum after repetition_penalty, by length^length_penalty. With the other
  /// methods, log_probability.
  double score = 0.0;
  bool finished = false;  ///< ended by eos
};

/// Continues each prompt until eos, until max_tokens, or until the model can hold no more. Rows that are done
/// cost nothing further. The search itself runs on the CPU.
///
/// @param step   fresh: it has been given nothing yet
/// @param prompt [N, t] int64, t ≥ 1, unpadded; it begins with bos where the model was trained so
/// @return one a row, in their order; for beam search the best
/// @throws Error where an option is out of range or the prompt is longer than the model can hold
std::vector<GeneratedText> generate(DecodeStep& step, const at::Tensor& prompt, const SearchOptions& options,
                                    const SpecialTokens& special = {});

}  // namespace tessera::language
