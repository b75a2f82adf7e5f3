#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace tessera::model {

// What the passes of a model give and take: tensors alone, so that who passes them on needs no modules.

/// B images after the passes that no text takes part in.
struct ImageFeatures {
  at::Tensor tokens;    ///< [B, 1+P, D] compressed tokens, [CLS] first, registers left out
  at::Tensor attended;  ///< [B, 1+P, D] these after the first level's self-attention
  std::vector<at::Tensor>
      states;            ///< M+1 of [B, 1+P, D]: what each level reads, then the image blocks' output
  at::Tensor embedding;  ///< [B, E] float32, L2-normalised: ITC's
};

/// B texts after the passes that no image takes part in, bidirectional.
struct TextFeatures {
  at::Tensor input_ids;       ///< [B, T] int64
  at::Tensor attention_mask;  ///< [B, T] bool
  at::Tensor lower;           ///< [B, T, C] below the first fused layer
  at::Tensor attended;        ///< [B, T, C] this after the first fused layer's self-attention
  at::Tensor hidden_states;   ///< [B, T, C] after the final norm
  at::Tensor embedding;       ///< [B, E] float32, L2-normalised: ITC's
};

/// What codes of B pairs are made of: the pooled vectors of both sides, without gradient.
struct PairVectors {
  at::Tensor image;  ///< [B, 2D], undefined where no row has one
  at::Tensor text;   ///< [B, C], likewise
};

}  // namespace tessera::model
