#pragma once

#include <string>

#include "core/safetensors.h"

namespace tessera::lora {

// SwiGLU's inner product is one matrix in the files of facebook and of older transformers (mlp.weights_in,
// the gate's rows first), and two in transformers 5 and in the modules here (mlp.gate_proj, mlp.up_proj).

/// Keys of weights or of adapters with one matrix → with two, views of it. An adapter's A is both's.
void split_gates(TensorMap& tensors);

/// Keys with two matrices → with one: a view where the two lie one behind the other, else a copy.
/// @throws Error naming the key where one of the two is missing, or two adapters' A sides differ, so that
///         they are no adapter of the one matrix
void join_gates(TensorMap& tensors, const std::string& source);

}  // namespace tessera::lora
