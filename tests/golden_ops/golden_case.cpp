#include "golden_case.h"

#include <ATen/ATen.h>

#include <array>
#include <charconv>
#include <cmath>

#include "core/error.h"

namespace tessera::golden {

namespace {

using Json = nlohmann::json;

struct Group {
  const char* prefix;
  TensorMap GoldenCase::*tensors;
};

constexpr std::array<Group, 6> kGroups{{
    {"in.", &GoldenCase::inputs},
    {"w.", &GoldenCase::weights},
    {"adapter.", &GoldenCase::adapter},
    {"out.", &GoldenCase::outputs},
    {"cotangent.", &GoldenCase::cotangents},
    {"grad.", &GoldenCase::gradients},
}};

double tolerance(const StringMap& metadata, const std::string& key, double fallback,
                 const std::string& file) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) {
    return fallback;
  }
  const std::string& text = found->second;
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(value) || value < 0) {
    fail("{}: metadata '{}' has to be a number from 0, found '{}'", file, key, text);
  }
  return value;
}

Json parse_params(const StringMap& metadata, const std::string& file) {
  const auto found = metadata.find("params");
  if (found == metadata.end()) {
    return Json::object();
  }
  const Json params = Json::parse(found->second, nullptr, /*allow_exceptions=*/false);
  if (!params.is_object()) {
    fail("{}: metadata 'params' has to be a JSON object", file);
  }
  return params;
}

void add_tensor(GoldenCase& golden, const std::string& full_name, const at::Tensor& tensor,
                const std::string& file) {
  for (const auto& group : kGroups) {
    const std::string prefix = group.prefix;
    if (full_name.size() > prefix.size() && full_name.compare(0, prefix.size(), prefix) == 0) {
      (golden.*group.tensors)[full_name.substr(prefix.size())] = tensor.clone();
      return;
    }
  }
  fail("{}: tensor '{}' has none of the prefixes in., w., adapter., out., cotangent., grad.", file,
       full_name);
}

/// A gradient is of a tensor of the case and of the same shape.
void check_gradients(const GoldenCase& golden, const std::string& file) {
  for (const auto& [name, gradient] : golden.gradients) {
    const at::Tensor* source = nullptr;
    for (const auto& group : {kGroups[0], kGroups[1], kGroups[2]}) {
      const std::string prefix = group.prefix;
      const TensorMap& tensors = golden.*group.tensors;
      if (name.compare(0, prefix.size(), prefix) == 0) {
        const auto found = tensors.find(name.substr(prefix.size()));
        source = found == tensors.end() ? nullptr : &found->second;
      }
    }
    if (source == nullptr) {
      fail("{}: 'grad.{}' is the gradient of no tensor in the file", file, name);
    }
    if (source->sizes() != gradient.sizes()) {
      fail("{}: 'grad.{}' has another shape than '{}'", file, name, name);
    }
  }
  if (!golden.gradients.empty() && golden.outputs.count("loss") == 0 && golden.cotangents.empty()) {
    fail("{}: gradients need an 'out.loss' or a 'cotangent.NAME'", file);
  }
}

}  // namespace

GoldenCase read_golden_case(const std::filesystem::path& path) {
  const SafetensorsFile file(path);
  const std::string name = path.string();
  const StringMap& metadata = file.metadata();
  GoldenCase golden;
  golden.name = path.stem().string();
  const auto op = metadata.find("op");
  if (op == metadata.end()) {
    fail("{}: is no golden case: metadata 'op' is missing", name);
  }
  golden.op = op->second;
  golden.params = parse_params(metadata, name);
  golden.rtol = tolerance(metadata, "rtol", golden.rtol, name);
  golden.atol = tolerance(metadata, "atol", golden.atol, name);
  for (const auto& [tensor_name, tensor] : file.tensors()) {
    add_tensor(golden, tensor_name, tensor, name);
  }
  if (golden.outputs.empty()) {
    fail("{}: is no golden case: it expects no output (out.NAME)", name);
  }
  check_gradients(golden, name);
  return golden;
}

const at::Tensor& input(const GoldenCase& golden, const std::string& name) {
  const auto found = golden.inputs.find(name);
  if (found == golden.inputs.end()) fail("{}: in.{} is missing", golden.name, name);
  return found->second;
}

at::Tensor leaf(const GoldenCase& golden, const std::string& name, GoldenResult& result) {
  const at::Tensor tensor = input(golden, name).detach().clone().set_requires_grad(true);
  result.leaves["in." + name] = tensor;
  return tensor;
}

}  // namespace tessera::golden
