#pragma once

#include <cstdint>

#include "lora/lora_config.h"

namespace tessera {
struct ConfigRows;
}

namespace tessera::fusion {

struct FusionConfig {
  std::int64_t embedding_size = 128;  ///< of the ITC embeddings
  std::int64_t token_size = 128;      ///< of the token embeddings that MaxSim compares
  std::int64_t levels = 6;            ///< image blocks, and top layers of the language model that read images
  std::int64_t image_attention_heads = 4;
  std::int64_t image_mlp_ratio = 4;
  std::int64_t cross_attention_heads = 4;
  lora::TrainableChoice trainable = lora::TrainableChoice::kFull;
  lora::LoraConfig lora{.target_modules = {"query", "key_value"}};

  bool operator==(const FusionConfig&) const = default;
};

/// The section's keys (core/config_rows.h).
ConfigRows config_rows(FusionConfig& fusion);

}  // namespace tessera::fusion
