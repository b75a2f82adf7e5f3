#pragma once

#include <filesystem>
#include <string>

#include "core/safetensors.h"

namespace tessera {

/// The file that a path to a model's weights means: the path itself where it is a file; in a folder the first
/// there is of model.safetensors, model.safetensors.index.json, pytorch_model.bin,
/// pytorch_model.bin.index.json.
/// @throws Error saying what is accepted, where there is none
std::filesystem::path find_weights_file(const std::filesystem::path& path);

/// All tensors of a .safetensors file, of a file that torch.save wrote (.bin, .pth, .pt), or of the shards
/// beside an .index.json, memory-mapped (core/safetensors.h, core/pytorch_file.h).
/// @throws Error naming the file and what is wrong with it, or saying what is accepted
TensorMap read_weights(const std::filesystem::path& file);

}  // namespace tessera
