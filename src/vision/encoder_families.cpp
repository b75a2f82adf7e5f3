#include "vision/encoder_families.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_file.h"
#include "core/weights_file.h"
#include "vision/dinov2.h"

namespace tessera::vision {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kModelType = "model_type";

/// "a", "b" or "c"
std::string accepted_types(std::span<const EncoderFamily> families) {
  std::vector<std::string_view> types;
  for (const EncoderFamily& family : families)
    types.insert(types.end(), family.model_types.begin(), family.model_types.end());
  std::string list;
  for (std::size_t i = 0; i < types.size(); ++i) {
    if (i > 0) list += i + 1 == types.size() ? " or " : ", ";
    list += fmt::format("\"{}\"", types[i]);
  }
  return list;
}

bool says_model_type(const json& config) {
  return config.is_object() && config.contains(kModelType) && !config[kModelType].is_null();
}

const EncoderFamily& family_of_config(const json& config, const std::string& source,
                                      std::span<const EncoderFamily> families) {
  if (!config.is_object()) {
    fail("{}: expected a JSON object with the model's configuration, found {}", source, config.type_name());
  }
  if (says_model_type(config) && config[kModelType].is_string()) {
    const auto type = config[kModelType].get<std::string>();
    for (const EncoderFamily& family : families) {
      const auto& types = family.model_types;
      if (std::find(types.begin(), types.end(), type) != types.end()) return family;
    }
  }
  fail("{}: {}: expected {}, found {}", source, kModelType, accepted_types(families),
       says_model_type(config) ? json_text(config[kModelType]) : "none");
}

const EncoderFamily& family_of_files(const json& config, const std::string& config_file,
                                     const TensorMap& tensors, std::span<const EncoderFamily> families) {
  if (config.is_object() && !says_model_type(config)) {
    for (const EncoderFamily& family : families) {
      if (family.has_its_keys(tensors)) return family;
    }
  }
  return family_of_config(config, config_file, families);
}

}  // namespace

std::span<const EncoderFamily> encoder_families() {
  static const std::array kFamilies = {dinov2_family()};
  return kFamilies;
}

std::shared_ptr<VisionEncoder> encoder_from_config(const json& config, const std::string& source,
                                                   PositionInterpolation interpolation,
                                                   std::span<const EncoderFamily> families) {
  return family_of_config(config, source, families).from_config(config, source, interpolation);
}

std::shared_ptr<VisionEncoder> load_encoder(const fs::path& path, PositionInterpolation interpolation,
                                            std::span<const EncoderFamily> families) {
  const fs::path weights_path = find_weights_file(path);
  const std::string source = weights_path.string();
  const TensorMap tensors = read_weights(weights_path);
  for (const EncoderFamily& family : families) {
    if (family.from_bare_file == nullptr) continue;
    if (auto encoder = family.from_bare_file(tensors, source, interpolation)) return encoder;
  }
  const fs::path config_path = weights_path.parent_path() / "config.json";
  if (!fs::exists(config_path)) {
    fail("{}: there is no config.json beside the weights, which says the number of heads",
         weights_path.parent_path().string());
  }
  const json config = read_json_file(config_path);
  const EncoderFamily& family = family_of_files(config, config_path.string(), tensors, families);
  auto encoder = family.from_config(config, config_path.string(), interpolation);
  encoder->load_file_tensors(tensors, source);
  return encoder;
}

std::shared_ptr<VisionEncoder> random_encoder(const ArchitectureConfig& architecture,
                                              PositionInterpolation interpolation, std::uint64_t seed) {
  const std::span<const EncoderFamily> families = encoder_families();
  const auto family = std::find_if(families.begin(), families.end(),
                                   [](const EncoderFamily& each) { return each.random != nullptr; });
  TORCH_CHECK(family != families.end(), "no encoder can be described by vision.architecture");
  return family->random(architecture, interpolation, seed);
}

}  // namespace tessera::vision
