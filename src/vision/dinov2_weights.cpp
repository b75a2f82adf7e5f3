// How DINOv2 reads and writes its files, and its entry among the encoders.

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "core/error.h"
#include "lora/joined_modules.h"
#include "lora/lora.h"
#include "lora/module_names.h"
#include "nn/state_dict.h"
#include "vision/dinov2.h"
#include "vision/dinov2_names.h"
#include "vision/encoder_families.h"
#include "vision/facebook_weights.h"

namespace tessera::vision {

namespace {

constexpr const char* kMaskToken = "embeddings.mask_token";

/// Keys as load_file_tensors takes them → the parameters' paths.
TensorMap with_paths(const TensorMap& tensors, const std::string& source) {
  static const std::set<std::string> kWrapperHead = {"classifier.weight", "classifier.bias"};
  const lora::ModuleNames& names = dinov2_module_names();
  const bool wrapped = std::any_of(tensors.begin(), tensors.end(), [&](const auto& named) {
    return !names.wrapper_prefix(named.first).empty();
  });
  TensorMap renamed;
  for (const auto& [name, tensor] : tensors) {
    if (wrapped && kWrapperHead.count(name) != 0) {
      continue;
    }
    if (!renamed.emplace(names.path_here(names.without_wrapper_prefix(name)), tensor).second) {
      fail("{}: {} is there under two names", source, name);
    }
  }
  lora::split_joined(names, renamed);
  return renamed;
}

/// Under the paths that they have here.
TensorMap backbone_parameters(const Dinov2Model& model) {
  TensorMap tensors;
  for (const auto& item : model.named_parameters()) {
    if (!lora::is_lora_parameter(item.key())) tensors[item.key()] = item.value();
  }
  return tensors;
}

/// Hugging Face's, in either naming: the scales of residual branches set DINOv2 apart from other
/// transformers.
bool has_dinov2_keys(const TensorMap& tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const auto& named) {
    return lora::has_last_segments(named.first, "layer_scale1.lambda1");
  });
}

std::shared_ptr<VisionEncoder> dinov2_from_config(const nlohmann::json& config, const std::string& source,
                                                  PositionInterpolation interpolation) {
  return std::make_shared<Dinov2Model>(Dinov2Config::from_json(config, source), interpolation);
}

std::shared_ptr<VisionEncoder> dinov2_of_facebook(const TensorMap& tensors, const std::string& source,
                                                  PositionInterpolation interpolation) {
  if (!has_facebook_names(tensors)) return nullptr;
  const FacebookWeights converted = from_facebook(tensors, source);
  auto model = std::make_shared<Dinov2Model>(converted.config, interpolation);
  model->load_file_tensors(converted.tensors, source);
  return model;
}

std::shared_ptr<VisionEncoder> random_dinov2(const ArchitectureConfig& architecture,
                                             PositionInterpolation interpolation, std::uint64_t seed) {
  auto model = std::make_shared<Dinov2Model>(Dinov2Config::from_architecture(architecture), interpolation);
  initialise_random(*model, seed);
  return model;
}

}  // namespace

nlohmann::json Dinov2Model::config_json() const { return config_.to_json(); }

void Dinov2Model::load_file_tensors(const TensorMap& tensors, const std::string& source) {
  nn::load_state_dict(backbone_parameters(*this), with_paths(tensors, source), {kMaskToken}, source);
}

TensorMap Dinov2Model::file_tensors() const {
  TensorMap tensors = backbone_parameters(*this);
  lora::join_parts(module_names(), tensors, "model");
  return tensors;
}

EncoderFamily dinov2_family() {
  return {.model_types = {"dinov2", "dinov2_with_registers"},
          .module_names = dinov2_module_names,
          .has_its_keys = has_dinov2_keys,
          .from_config = dinov2_from_config,
          .from_bare_file = dinov2_of_facebook,
          .random = random_dinov2};
}

}  // namespace tessera::vision
