#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace tessera {
class Archive;
}

namespace tessera::losses {

/// Checked access to what a loss keeps between steps: tensors "OWNER.FIELD", numbers under the JSON object
/// OWNER.

std::string field_name(const std::string& owner, const std::string& field);

/// @throws Error naming file and key where it is absent, no integer, or outside [minimum, maximum]
std::int64_t integer_field(const Archive& archive, const std::string& owner, const std::string& field,
                           std::int64_t minimum, std::int64_t maximum);

/// A copy of the tensor; -1 in `sizes` accepts any size.
/// @throws Error naming file and tensor where it is absent or of another shape or dtype
at::Tensor tensor_field(const Archive& archive, const std::string& name, at::IntArrayRef sizes,
                        at::ScalarType dtype);

}  // namespace tessera::losses
