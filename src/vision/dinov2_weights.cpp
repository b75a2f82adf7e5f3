#include "vision/dinov2_weights.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/json_file.h"
#include "core/publish_folder.h"
#include "vision/facebook_weights.h"
#include "vision/lora.h"
#include "vision/module_names.h"
#include "vision/tensor_list.h"
#include "vision/weights_file.h"

namespace tessera::vision {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kMaskToken = "embeddings.mask_token";
constexpr const char* kWeightsFile = "model.safetensors";

Dinov2Config read_config(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  if (!fs::exists(path)) {
    fail("{}: there is no config.json beside the weights, which says the number of heads", folder.string());
  }
  return Dinov2Config::from_json(read_json_file(path), path.string());
}

/// transformers 5 holds SwiGLU's two inner products apart; ours are one, gate first. Where the file has two,
/// so has the list of parameters: views of the halves, so that each is copied straight into its place.
void split_gates(TensorMap& parameters, const TensorMap& tensors) {
  static const std::string kGate = ".mlp.gate_proj.";
  const at::NoGradGuard no_grad;
  for (const auto& [gate, tensor] : tensors) {
    if (gate.find(kGate) == std::string::npos) {
      continue;
    }
    const auto renamed = [&, name = gate](const char* to) {
      return std::string(name).replace(name.find(kGate), kGate.size(), fmt::format(".mlp.{}.", to));
    };
    const auto joined = parameters.find(renamed("weights_in"));
    if (joined == parameters.end()) {
      continue;
    }
    const auto halves = joined->second.chunk(2, 0);
    parameters[gate] = halves[0];
    parameters[renamed("up_proj")] = halves[1];
    parameters.erase(joined);
  }
}

/// Of a wrapper class, for image classification and the like.
std::size_t prefix_size(std::string_view name) {
  for (const std::string_view prefix : {"dinov2.", "dinov2_with_registers."}) {
    if (name.starts_with(prefix)) {
      return prefix.size();
    }
  }
  return 0;
}

/// Keys as load_dinov2 takes them → legacy keys without prefix.
TensorMap with_legacy_keys(const TensorMap& tensors, const std::string& source) {
  static const std::set<std::string> kWrapperHead = {"classifier.weight", "classifier.bias"};
  const bool wrapped = std::any_of(tensors.begin(), tensors.end(),
                                   [](const auto& named) { return prefix_size(named.first) != 0; });
  TensorMap renamed;
  for (const auto& [name, tensor] : tensors) {
    if (wrapped && kWrapperHead.count(name) != 0) {
      continue;
    }
    const std::string bare = name.substr(prefix_size(name));
    if (!renamed.emplace(rename_path(bare, ModuleNaming::kLegacy), tensor).second) {
      fail("{}: {} is there under two names", source, name);
    }
  }
  return renamed;
}

json preprocessor_json(const Preprocessing& preprocessing) {
  return {{"image_processor_type", "BitImageProcessor"},
          {"do_convert_rgb", true},
          {"do_resize", true},
          {"size", {{"shortest_edge", preprocessing.shortest_edge}}},
          {"resample", 3},  // PIL's number for bicubic
          {"do_center_crop", true},
          {"crop_size", {{"height", preprocessing.crop_size}, {"width", preprocessing.crop_size}}},
          {"do_rescale", true},
          {"rescale_factor", 1.0 / 255.0},
          {"do_normalize", true},
          {"image_mean", preprocessing.image_mean},
          {"image_std", preprocessing.image_std}};
}

/// Weights first: a folder with a config.json is complete.
void write_folder(const fs::path& folder, const Dinov2Model& model, const Preprocessing& preprocessing) {
  write_safetensors(folder / kWeightsFile, dinov2_tensors(model), {{"format", "pt"}});
  write_file_atomically(folder / "preprocessor_config.json", preprocessor_json(preprocessing).dump(2) + "\n");
  write_file_atomically(folder / "config.json", model.config().to_json().dump(2) + "\n");
}

}  // namespace

void load_dinov2_tensors(Dinov2Model& model, const TensorMap& tensors, const std::string& source) {
  const TensorMap renamed = with_legacy_keys(tensors, source);
  TensorMap parameters = dinov2_tensors(model);
  split_gates(parameters, renamed);
  copy_into_parameters(parameters, renamed, {kMaskToken}, source);
}

TensorMap dinov2_tensors(const Dinov2Model& model) {
  TensorMap tensors;
  for (const auto& item : model.named_parameters()) {
    if (!is_lora_parameter(item.key())) {
      tensors[item.key()] = item.value();
    }
  }
  return tensors;
}

std::shared_ptr<Dinov2Model> load_dinov2(const fs::path& path, PositionInterpolation interpolation) {
  const fs::path weights_path = find_weights_file(path);
  const std::string source = weights_path.string();
  TensorMap tensors = read_weights(weights_path);
  Dinov2Config config;
  if (has_facebook_names(tensors)) {
    FacebookWeights converted = from_facebook(tensors, source);
    config = converted.config;
    tensors = std::move(converted.tensors);
  } else {
    config = read_config(weights_path.parent_path());
  }
  auto model = std::make_shared<Dinov2Model>(config, interpolation);
  load_dinov2_tensors(*model, tensors, source);
  return model;
}

void save_dinov2(const fs::path& folder, const Dinov2Model& model, const Preprocessing& preprocessing) {
  if (fs::exists(folder)) {
    if (!fs::is_directory(folder)) {
      fail("{}: expected a folder to write the model into, found a file", folder.string());
    }
    write_folder(folder, model, preprocessing);
    return;
  }
  publish_folder(folder, [&](const fs::path& fresh) { write_folder(fresh, model, preprocessing); });
}

}  // namespace tessera::vision
