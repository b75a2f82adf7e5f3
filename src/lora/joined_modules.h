#pragma once

#include <string>

#include "core/safetensors.h"
#include "lora/module_names.h"

namespace tessera::lora {

// Modules that are one matrix in one naming and several in the other and here (ModuleNames::Joined): SwiGLU's
// inner product in the files of facebook and of older transformers (mlp.weights_in, the gate's rows first)
// and in transformers 5 (mlp.gate_proj, mlp.up_proj).

/// Keys of weights or of adapters with one matrix → with its parts, views of it. An adapter's A is every
/// part's.
void split_joined(const ModuleNames& names, TensorMap& tensors);

/// Keys with the parts → with one matrix: a view where they lie one behind the other, else a copy.
/// @throws Error naming the key where a part is missing, or adapters' A sides differ, so that they are no
///         adapter of the one matrix
void join_parts(const ModuleNames& names, TensorMap& tensors, const std::string& source);

}  // namespace tessera::lora
