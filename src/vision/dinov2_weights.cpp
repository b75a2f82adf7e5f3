#include "vision/dinov2_weights.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/files.h"
#include "core/finite.h"
#include "core/json_file.h"
#include "core/publish_folder.h"
#include "core/weights_file.h"
#include "vision/facebook_weights.h"
#include "vision/gate_names.h"
#include "vision/lora.h"
#include "vision/module_names.h"
#include "vision/tensor_list.h"

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

/// Keys as load_dinov2 takes them → the parameters' paths.
TensorMap with_paths(const TensorMap& tensors, const std::string& source) {
  static const std::set<std::string> kWrapperHead = {"classifier.weight", "classifier.bias"};
  const bool wrapped = std::any_of(tensors.begin(), tensors.end(),
                                   [](const auto& named) { return !wrapper_prefix(named.first).empty(); });
  TensorMap renamed;
  for (const auto& [name, tensor] : tensors) {
    if (wrapped && kWrapperHead.count(name) != 0) {
      continue;
    }
    if (!renamed.emplace(path_here(without_wrapper_prefix(name)), tensor).second) {
      fail("{}: {} is there under two names", source, name);
    }
  }
  split_gates(renamed);
  return renamed;
}

/// Under the paths that they have here.
TensorMap backbone_parameters(const Dinov2Model& model) {
  TensorMap tensors;
  for (const auto& item : model.named_parameters()) {
    if (!is_lora_parameter(item.key())) tensors[item.key()] = item.value();
  }
  return tensors;
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
void write_folder(const fs::path& folder, const Dinov2Model& model, const Preprocessing& preprocessing,
                  at::ScalarType dtype) {
  TensorMap tensors = dinov2_tensors(model);
  for (auto& [name, tensor] : tensors) {
    tensor = tensor.to(dtype);
    // An adapter that was merged, or float16, which ends at 65,504.
    if (const std::string found = what_is_not_finite(tensor); !found.empty()) {
      fail("{}: tensor '{}' can't be written as {}: not finite are {}", (folder / kWeightsFile).string(),
           name, c10::toString(dtype), found);
    }
  }
  write_safetensors(folder / kWeightsFile, tensors, {{"format", "pt"}});
  write_file_atomically(folder / "preprocessor_config.json", preprocessor_json(preprocessing).dump(2) + "\n");
  json config = model.config().to_json();
  config["dtype"] = c10::getDtypeNames(dtype).first;
  write_file_atomically(folder / "config.json", config.dump(2) + "\n");
}

}  // namespace

void load_dinov2_tensors(Dinov2Model& model, const TensorMap& tensors, const std::string& source) {
  copy_into_parameters(backbone_parameters(model), with_paths(tensors, source), {kMaskToken}, source);
}

TensorMap dinov2_tensors(const Dinov2Model& model) {
  TensorMap tensors = backbone_parameters(model);
  join_gates(tensors, "model");
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

void save_dinov2(const fs::path& folder, const Dinov2Model& model, const Preprocessing& preprocessing,
                 at::ScalarType dtype) {
  if (fs::exists(folder)) {
    if (!fs::is_directory(folder)) {
      fail("{}: expected a folder to write the model into, found a file", folder.string());
    }
    write_folder(folder, model, preprocessing, dtype);
    return;
  }
  publish_folder(folder, [&](const fs::path& fresh) { write_folder(fresh, model, preprocessing, dtype); });
}

at::ScalarType stored_dtype(const fs::path& path) {
  at::ScalarType narrowest = at::kFloat;
  for (const auto& [name, tensor] : read_weights(find_weights_file(path))) {
    if (tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16)
      narrowest = tensor.scalar_type();
  }
  return narrowest;
}

}  // namespace tessera::vision
