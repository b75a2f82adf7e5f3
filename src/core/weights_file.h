#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/safetensors.h"

namespace tessera {

/// The file that a path to a model's weights means: the path itself where it is a file; in a folder the first
/// there is of model.safetensors, model.safetensors.index.json, pytorch_model.bin,
/// pytorch_model.bin.index.json.
/// @throws Error saying what is accepted, where there is none
std::filesystem::path find_weights_file(const std::filesystem::path& path);

/// All tensors of a .safetensors file, of a file that torch.save wrote (.bin, .pth, .pt), or of the shards
/// beside an .index.json, memory-mapped (core/safetensors.h, core/pytorch_file.h). What wraps a model or a
/// module of it for training, and with it the names of its tensors, is taken out of these, wherever it stands
/// in them: "module" (DataParallel, DistributedDataParallel), "_orig_mod" (torch.compile),
/// "_fsdp_wrapped_module" and "_checkpoint_wrapped_module".
/// @throws Error naming the file and what is wrong with it, or saying what is accepted
TensorMap read_weights(const std::filesystem::path& file);

/// The narrowest type of the weights behind such a path: float32, float16 or bfloat16.
c10::ScalarType stored_dtype(const std::filesystem::path& path);

/// For the end of a message that lists names: what they have in front that the model's don't, or the other
/// way round, where that is what sets them apart; else empty.
/// @param missing     names of the model that the file lacks
/// @param unexpected  names of the file that the model lacks
std::string hint_about_prefix(const std::vector<std::string>& missing,
                              const std::vector<std::string>& unexpected);

}  // namespace tessera
