#include "vision/dinov2_weights.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "core/publish_folder.h"
#include "vision/lora.h"
#include "vision/module_names.h"
#include "vision/tensor_list.h"

namespace tessera::vision {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kMaskToken = "embeddings.mask_token";
constexpr const char* kWeightsFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

json read_json(const fs::path& path) {
  try {
    return json::parse(read_file(path));
  } catch (const json::exception& error) {
    fail("{}: not valid JSON: {}", path.string(), error.what());
  }
}

/// All tensors of the shards that an index names.
TensorMap read_shards(const fs::path& index_path) {
  const json index = read_json(index_path);
  const auto weight_map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || weight_map == index.end() || !weight_map->is_object()) {
    fail("{}: expected an object \"weight_map\" of tensor names and files", index_path.string());
  }
  std::set<std::string> files;
  for (const auto& [name, file] : weight_map->items()) {
    // Shards lie beside their index; a path could lead anywhere.
    if (!file.is_string() || fs::path(file.get<std::string>()).filename() != file.get<std::string>()) {
      fail("{}: {}: expected the name of a file in the same folder, found {}", index_path.string(), name,
           file.dump());
    }
    files.insert(file.get<std::string>());
  }
  TensorMap tensors;
  for (const std::string& file : files) {
    for (auto& [name, tensor] : SafetensorsFile(index_path.parent_path() / file).tensors()) {
      if (!tensors.emplace(name, tensor).second) {
        fail("{}: {} is in more than one shard", index_path.string(), name);
      }
    }
  }
  for (const auto& [name, file] : weight_map->items()) {
    if (tensors.count(name) == 0) {
      fail("{}: {} is not in {}", index_path.string(), name, file.get<std::string>());
    }
  }
  return tensors;
}

/// transformers 5 holds SwiGLU's two inner products apart; the files hold them as one, gate first.
void join_gates(TensorMap& tensors, const std::string& source) {
  static const std::string kGate = ".mlp.gate_proj.";
  std::vector<std::string> gates;
  for (const auto& [name, tensor] : tensors) {
    if (name.find(kGate) != std::string::npos) {
      gates.push_back(name);
    }
  }
  for (const std::string& gate : gates) {
    const auto renamed = [&](const char* to) {
      return std::string(gate).replace(gate.find(kGate), kGate.size(), fmt::format(".mlp.{}.", to));
    };
    const auto up = tensors.find(renamed("up_proj"));
    if (up == tensors.end() || up->second.sizes() != tensors[gate].sizes()) {
      fail("{}: {} needs {} of the same shape beside it", source, gate, renamed("up_proj"));
    }
    const at::Tensor joined = at::cat({tensors[gate].to(at::kFloat), up->second.to(at::kFloat)}, 0);
    tensors.erase(up);
    tensors.erase(gate);
    tensors[renamed("weights_in")] = joined;
  }
}

/// Keys as load_dinov2 takes them → legacy keys without prefix.
TensorMap with_legacy_keys(const TensorMap& tensors, const std::string& source) {
  static const std::string kPrefix = "dinov2.";
  static const std::set<std::string> kWrapperHead = {"classifier.weight", "classifier.bias"};
  bool wrapped = false;
  for (const auto& [name, tensor] : tensors) {
    wrapped = wrapped || name.starts_with(kPrefix);
  }
  TensorMap renamed;
  for (const auto& [name, tensor] : tensors) {
    if (wrapped && kWrapperHead.count(name) != 0) {
      continue;
    }
    const std::string bare = name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : name;
    if (!renamed.emplace(rename_path(bare, ModuleNaming::kLegacy), tensor).second) {
      fail("{}: {} is there under two names", source, name);
    }
  }
  join_gates(renamed, source);
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
  copy_into_parameters(dinov2_tensors(model), with_legacy_keys(tensors, source), {kMaskToken}, source);
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
  if (!fs::exists(path)) {
    fail("{}: no such file or folder (expected a Hugging Face DINOv2 folder or a .safetensors file)",
         path.string());
  }
  const bool is_folder = fs::is_directory(path);
  const fs::path folder = is_folder ? path : path.parent_path();
  const fs::path config_path = folder / "config.json";
  if (!fs::exists(config_path)) {
    fail("{}: there is no config.json beside the weights, which says the number of heads", folder.string());
  }
  const bool sharded = is_folder && !fs::exists(folder / kWeightsFile);
  if (sharded && !fs::exists(folder / kIndexFile)) {
    fail("{}: there is neither {} nor {} (only safetensors are read)", path.string(), kWeightsFile,
         kIndexFile);
  }
  const fs::path weights_path = !is_folder ? path : folder / (sharded ? kIndexFile : kWeightsFile);
  auto model = std::make_shared<Dinov2Model>(
      Dinov2Config::from_json(read_json(config_path), config_path.string()), interpolation);
  load_dinov2_tensors(*model, sharded ? read_shards(weights_path) : SafetensorsFile(weights_path).tensors(),
                      weights_path.string());
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
