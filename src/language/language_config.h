#pragma once

#include <cstdint>
#include <string>

#include "lora/lora_config.h"

namespace tessera {
struct ConfigRows;
}

namespace tessera::language {

struct LanguageConfig {
  std::string tokenizer;           ///< SentencePiece .model
  std::string weights = "random";  ///< or a Hugging Face LlamaForCausalLM folder
  std::int64_t vocab_size = 8192;
  std::int64_t hidden_size = 384;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 6;
  std::int64_t intermediate_size = 1024;
  std::int64_t max_position_embeddings = 512;
  double rope_theta = 10000.0;
  double rms_norm_eps = 1e-5;
  std::int64_t max_tokens = 64;  ///< a caption is cut to this many tokens; its end token stays
  lora::TrainableChoice trainable = lora::TrainableChoice::kFull;
  lora::LoraConfig lora{.target_modules = {"q_proj", "v_proj"}};

  bool operator==(const LanguageConfig&) const = default;
};

/// The section's keys (core/config_rows.h).
ConfigRows config_rows(LanguageConfig& language);

}  // namespace tessera::language
