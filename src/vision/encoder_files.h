#pragma once

#include <c10/core/ScalarType.h>

#include <filesystem>

#include "vision/encoder.h"

namespace tessera::vision {

// An encoder's folder, written. load_encoder (encoder_families.h) reads it.

/// Writes a folder that transformers' from_pretrained reads: config.json, model.safetensors,
/// preprocessor_config.json. A new folder appears as a whole; in an existing one the files are replaced one
/// by one. Adapters are not written and not merged.
/// @param dtype  float32, float16 or bfloat16: to which the parameters are rounded
/// @throws Error naming the file that can't be written
void save_encoder(const std::filesystem::path& folder, const VisionEncoder& encoder,
                  const Preprocessing& preprocessing, c10::ScalarType dtype = c10::kFloat);
/// With the encoder's own preprocessing.
void save_encoder(const std::filesystem::path& folder, const VisionEncoder& encoder);

}  // namespace tessera::vision
