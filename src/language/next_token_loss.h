#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "language/tokenizer.h"

namespace tessera::language {

/// Label of a position that isn't predicted.
constexpr std::int64_t kIgnoreIndex = -100;

/// Texts as their own targets: neither padding counts, nor the eos of a text that was cut, or a model would
/// learn to end in mid-sentence. [B, T] int64
at::Tensor next_token_labels(const TokenBatch& tokens);

struct NextTokenLoss {
  at::Tensor value;  ///< scalar float32 (float64 for float64 logits): mean over the counted positions, 0
                     ///< where none is
  at::Tensor count;  ///< scalar int64: how many positions count
};

/// Cross-entropy of every token given those before it: the logits at t against the label at t+1, computed in
/// float32.
///
/// @param logits [B, T, V]
/// @param labels [B, T] int64, unshifted; kIgnoreIndex at positions that don't count
NextTokenLoss next_token_loss(const at::Tensor& logits, const at::Tensor& labels);

}  // namespace tessera::language
