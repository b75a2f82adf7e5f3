#include "nn/state_dict.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/error.h"
#include "core/finite.h"
#include "core/weights_file.h"

namespace tessera::nn {

namespace {

constexpr std::size_t kListed = 20;

/// " missing: a, b, … (40 more)", or nothing.
std::string list(const char* what, const std::vector<std::string>& names) {
  if (names.empty()) {
    return {};
  }
  const std::size_t shown = std::min(names.size(), kListed);
  std::string text = fmt::format("\n  {}: {}", what,
                                 fmt::join(names.begin(), names.begin() + static_cast<long>(shown), ", "));
  if (shown < names.size()) {
    text += fmt::format(", … ({} more)", names.size() - shown);
  }
  return text;
}

bool is_float(at::ScalarType dtype) {
  return dtype == at::kFloat || dtype == at::kHalf || dtype == at::kBFloat16 || dtype == at::kDouble;
}

}  // namespace

void load_state_dict(const TensorMap& parameters, const TensorMap& tensors,
                     const std::vector<std::string>& optional, const std::string& source,
                     const std::function<std::string(const std::string&)>& name_in_file) {
  const auto shown = [&](const std::string& name) { return name_in_file ? name_in_file(name) : name; };
  std::vector<std::string> missing;
  std::vector<std::string> unexpected;
  std::vector<std::string> other_shape;
  std::vector<std::string> other_type;
  for (const auto& [name, parameter] : parameters) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      if (std::find(optional.begin(), optional.end(), name) == optional.end()) {
        missing.push_back(shown(name));
      }
    } else if (found->second.sizes() != parameter.sizes()) {
      other_shape.push_back(fmt::format("{} (expected [{}], found [{}])", shown(name),
                                        fmt::join(parameter.sizes(), ", "),
                                        fmt::join(found->second.sizes(), ", ")));
    } else if (!is_float(found->second.scalar_type())) {
      other_type.push_back(fmt::format("{} (expected a float type, found {})", shown(name),
                                       c10::toString(found->second.scalar_type())));
    }
  }
  for (const auto& [name, tensor] : tensors) {
    if (parameters.count(name) == 0) {
      unexpected.push_back(shown(name));
    }
  }
  const std::string complaints = list("missing", missing) + list("unexpected", unexpected) +
                                 list("of another shape", other_shape) + list("of another type", other_type) +
                                 hint_about_prefix(missing, unexpected);
  if (!complaints.empty()) {
    fail("{}: the tensors are not those of the model:{}", source, complaints);
  }
  for (const auto& [name, tensor] : tensors)
    check_weights(tensor, fmt::format("{}: tensor '{}'", source, shown(name)));
  const c10::NoGradGuard no_grad;
  for (const auto& [name, parameter] : parameters) {
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      parameter.zero_();
    } else {
      parameter.copy_(found->second);
    }
  }
}

}  // namespace tessera::nn
