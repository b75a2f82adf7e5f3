#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <string>
#include <vector>

#include "core/safetensors.h"

namespace tessera::nn {

/// Copies `tensors` into the parameters of the same names, converting float types, after checking that both
/// sides have the same names and shapes and that every tensor is of a float type and finite. Nothing is
/// written where they aren't.
///
/// @param optional      parameters that may be absent; they become zero
/// @param source        names the file in messages
/// @param name_in_file  a parameter's name → the one that messages show; empty: the same
/// @throws Error listing every tensor that is missing, unexpected, of another shape or of another type; or
///         naming one with values that are not finite
void load_state_dict(const TensorMap& parameters, const TensorMap& tensors,
                     const std::vector<std::string>& optional, const std::string& source,
                     const std::function<std::string(const std::string&)>& name_in_file = {});

}  // namespace tessera::nn
