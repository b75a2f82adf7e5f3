#include "losses/archive_fields.h"

#include <ATen/ATen.h>
#include <c10/core/ScalarType.h>

#include "core/archive.h"
#include "core/error.h"

namespace tessera::losses {

namespace {

std::string shape_text(at::IntArrayRef sizes) {
  std::string text = "[";
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    text += (i == 0 ? "" : ", ") + (sizes[i] < 0 ? std::string("any") : std::to_string(sizes[i]));
  }
  return text + "]";
}

bool has_sizes(const at::Tensor& tensor, at::IntArrayRef sizes) {
  if (tensor.dim() != static_cast<std::int64_t>(sizes.size())) {
    return false;
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] >= 0 && tensor.size(static_cast<std::int64_t>(i)) != sizes[i]) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::string field_name(const std::string& owner, const std::string& field) { return owner + "." + field; }

std::int64_t integer_field(const Archive& archive, const std::string& owner, const std::string& field,
                           std::int64_t minimum, std::int64_t maximum) {
  const nlohmann::json& json = archive.json();
  const auto object = json.find(owner);
  if (object == json.end() || !object->is_object() || !object->contains(field)) {
    fail("{}: key '{}' is missing", archive.source(), field_name(owner, field));
  }
  const nlohmann::json& value = object->at(field);
  if (!value.is_number_integer() || value.get<std::int64_t>() < minimum ||
      value.get<std::int64_t>() > maximum) {
    fail("{}: key '{}': expected an integer from {} to {}, found {}", archive.source(),
         field_name(owner, field), minimum, maximum, value.dump());
  }
  return value.get<std::int64_t>();
}

at::Tensor tensor_field(const Archive& archive, const std::string& name, at::IntArrayRef sizes,
                        at::ScalarType dtype) {
  at::Tensor tensor = archive.get(name);
  if (tensor.scalar_type() != dtype || !has_sizes(tensor, sizes)) {
    fail("{}: tensor '{}': expected {} {}, found {} {}", archive.source(), name, shape_text(sizes),
         c10::toString(dtype), shape_text(tensor.sizes()), c10::toString(tensor.scalar_type()));
  }
  return tensor;
}

}  // namespace tessera::losses
