#pragma once

#include <string>

#include "core/safetensors.h"
#include "vision/dinov2_config.h"

namespace tessera::vision {

/// Whether tensors carry the names of facebookresearch/dinov2 (`blocks.0.attn.qkv.weight`), with or without
/// the prefix that its training puts before them ("backbone.").
bool has_facebook_names(const TensorMap& tensors);

struct FacebookWeights {
  Dinov2Config config;
  TensorMap tensors;  ///< under Hugging Face's legacy keys; views of the tensors given
};

/// Weights of facebookresearch/dinov2 under Hugging Face's legacy keys: query, key and value are the three
/// thirds of attn.qkv. Blocks may be numbered through (`blocks.3.…`) or lie in chunks (`blocks.1.3.…`, where
/// the second number counts through). Where the backbone has its training's prefix, the heads beside it
/// ("dino_head.", "ibot_head.") are left out.
///
/// The files say no configuration; it follows from shapes: hidden_size (cls_token), num_hidden_layers (the
/// blocks), num_attention_heads (64 channels each), patch_size (patch_embed), image_size (pos_embed, square),
/// num_register_tokens (register_tokens), SwiGLU (mlp.w12) and the feed-forward width. Positions are to be
/// interpolated as facebook's hub builds these models: kScaleFactor without registers, kSizeAntialias with.
///
/// @param source  names the file in messages
/// @throws Error naming the tensor where one that is needed for that is absent or of no possible shape, or
/// where a tensor is there under two names
FacebookWeights from_facebook(const TensorMap& tensors, const std::string& source);

}  // namespace tessera::vision
