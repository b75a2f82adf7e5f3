#pragma once

#include <cstdint>
#include <string>

#include "lora/lora_config.h"

namespace tessera {
struct ConfigRows;
}

namespace tessera::vision {

enum class PositionInterpolation { kAuto, kScaleFactor, kSize, kSizeAntialias };

/// Keys are those of Hugging Face's config.json.
struct ArchitectureConfig {
  std::int64_t hidden_size = 768;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 12;
  std::int64_t mlp_ratio = 4;
  std::int64_t image_size = 518;
  std::int64_t patch_size = 14;
  std::int64_t num_register_tokens = 0;
  double layerscale_value = 1.0;
  double layer_norm_eps = 1e-6;

  bool operator==(const ArchitectureConfig&) const = default;
};

struct VisionConfig {
  std::string weights;              ///< folder or file, or "random"; there is no default
  ArchitectureConfig architecture;  ///< used where weights is "random"
  lora::TrainableChoice trainable = lora::TrainableChoice::kLora;
  PositionInterpolation position_interpolation = PositionInterpolation::kAuto;
  bool gradient_checkpointing = false;  ///< less memory, more time in the encoder

  bool operator==(const VisionConfig&) const = default;
};

struct CompressorConfig {
  std::int64_t hidden_size = 384;
  std::int64_t output_size = 128;
  double dropout = 0.1;

  bool operator==(const CompressorConfig&) const = default;
};

/// The sections' keys (core/config_rows.h).
ConfigRows config_rows(VisionConfig& vision);
ConfigRows config_rows(CompressorConfig& compressor);

}  // namespace tessera::vision
