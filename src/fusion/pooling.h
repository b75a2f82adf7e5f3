#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::fusion {

// How heads make one vector of many: what the poolers of contrast, matching and the memory's code share.

/// Mean over the tokens that the mask keeps: [B, T, C], [B, T] → [B, C]; zero for a row that keeps none.
at::Tensor masked_mean(const at::Tensor& hidden_states, const at::Tensor& attention_mask);

/// [CLS] ⊕ mean patch: [B, 1+P, D] → [B, 2D].
at::Tensor pooled_image_tokens(const at::Tensor& tokens);

/// The last dimension scaled to length 1, in float32 (float64 stays).
at::Tensor unit_length(const at::Tensor& embedding);

}  // namespace tessera::fusion
