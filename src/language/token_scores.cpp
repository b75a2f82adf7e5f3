#include "language/token_scores.h"

#include <ATen/ATen.h>

#include <limits>
#include <set>

namespace tessera::language {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

/// Scores of either sign become smaller: a positive one is divided, a negative one multiplied.
void penalise(float* row, const std::set<std::int64_t>& tokens, double penalty) {
  for (const std::int64_t token : tokens) {
    row[token] = static_cast<float>(row[token] < 0 ? row[token] * penalty : row[token] / penalty);
  }
}

}  // namespace

TokenScores::TokenScores(const SearchOptions& options, const SpecialTokens& special)
    : options_(options), eos_(special.eos), forbidden_(options.suppressed_tokens) {
  // Some models pad with eos.
  for (const std::int64_t token : {special.bos, special.pad}) {
    if (token >= 0 && token != eos_) forbidden_.push_back(token);
  }
}

at::Tensor TokenScores::constrained(const at::Tensor& scores, const at::Tensor& prompt,
                                    const std::vector<std::int64_t>& inputs,
                                    const std::vector<const std::vector<std::int64_t>*>& generated) const {
  at::Tensor result = scores.to(at::kCPU, at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous();
  const std::int64_t vocabulary = result.size(1);
  const auto inside = [&](std::int64_t token) { return token >= 0 && token < vocabulary; };
  const auto prompts = prompt.accessor<std::int64_t, 2>();
  for (std::size_t row = 0; row < inputs.size(); ++row) {
    float* values = result.mutable_data_ptr<float>() + static_cast<std::int64_t>(row) * vocabulary;
    if (options_.repetition_penalty != 1.0) {
      std::set<std::int64_t> held(generated[row]->begin(), generated[row]->end());
      for (std::int64_t i = 0; i < prompt.size(1); ++i) held.insert(prompts[inputs[row]][i]);
      penalise(values, held, options_.repetition_penalty);
    }
    for (const std::int64_t token : forbidden_) {
      if (inside(token)) values[token] = kImpossible;
    }
    const auto tokens = static_cast<std::int64_t>(generated[row]->size());
    if (tokens < options_.min_tokens && inside(eos_)) values[eos_] = kImpossible;
  }
  return result;
}

}  // namespace tessera::language
