#pragma once

#include "config/config.h"

namespace tessera::model {

/// A model of some thousand weights for images of 28 px (2 x 2 patches), random, one level of fusion.
inline Config small_config() {
  Config config;
  config.data.image_size = 28;
  config.vision.weights = "random";
  config.vision.architecture = {.hidden_size = 24,
                                .num_hidden_layers = 2,
                                .num_attention_heads = 2,
                                .mlp_ratio = 2,
                                .image_size = 28,
                                .patch_size = 14};
  config.lora.r = 4;
  config.compressor = {.hidden_size = 20, .output_size = 12, .dropout = 0.5};
  config.language.vocab_size = 50;
  config.language.hidden_size = 16;
  config.language.num_hidden_layers = 1;
  config.language.num_attention_heads = 2;
  config.language.intermediate_size = 24;
  config.fusion = {.embedding_size = 8,
                   .token_size = 8,
                   .levels = 1,
                   .image_attention_heads = 2,
                   .image_mlp_ratio = 2,
                   .cross_attention_heads = 2};
  config.memory.slots = 12;
  config.memory.code_size = 16;
  config.memory.episode = 4;
  return config;
}

}  // namespace tessera::model
