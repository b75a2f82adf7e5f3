#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "language/search.h"

namespace tessera::language {

/// Scores of the next token with what the options forbid or dampen, before one is chosen: the repetition
/// penalty, eos before min_tokens, suppressed tokens.
class TokenScores {
 public:
  TokenScores(const SearchOptions& options, const SpecialTokens& special);

  /// @param scores     [R, V] logits or log-probabilities
  /// @param prompt     [N, t] int64 on the CPU
  /// @param inputs     which row of the prompt each of the R continues
  /// @param generated  what each of the R holds after its prompt, all of one length
  /// @return [R, V] float32 on the CPU, a copy; −inf where a token is no choice
  at::Tensor constrained(const at::Tensor& scores, const at::Tensor& prompt,
                         const std::vector<std::int64_t>& inputs,
                         const std::vector<const std::vector<std::int64_t>*>& generated) const;

 private:
  SearchOptions options_;
  std::int64_t eos_;
  std::vector<std::int64_t> forbidden_;
};

}  // namespace tessera::language
