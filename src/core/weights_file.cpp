#include "core/weights_file.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/json_file.h"
#include "core/pytorch_file.h"

namespace tessera {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kInFolder[] = {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin",
                                     "pytorch_model.bin.index.json"};
constexpr const char* kIndexEnding = ".index.json";

json read_index(const fs::path& path) {
  const json index = read_json_file(path);
  const auto weight_map = index.is_object() ? index.find("weight_map") : index.end();
  if (!index.is_object() || weight_map == index.end() || !weight_map->is_object()) {
    fail("{}: expected an object \"weight_map\" of tensor names and files", path.string());
  }
  return *weight_map;
}

/// One file by its ending, which an index may not be.
TensorMap read_one(const fs::path& file) {
  const std::string ending = file.extension().string();
  if (ending == ".safetensors") return SafetensorsFile(file).tensors();
  if (ending == ".bin" || ending == ".pth" || ending == ".pt") return read_pytorch_file(file);
  fail(
      "{}: expected a file of weights: .safetensors, .bin, .pth or .pt, or the .index.json beside shards of "
      "these",
      file.string());
}

TensorMap read_shards(const fs::path& index_path) {
  const json weight_map = read_index(index_path);
  std::set<std::string> files;
  for (const auto& [name, file] : weight_map.items()) {
    // Shards lie beside their index; a path could lead anywhere.
    if (!file.is_string() || fs::path(file.get<std::string>()).filename() != file.get<std::string>()) {
      fail("{}: {}: expected the name of a file in the same folder, found {}", index_path.string(), name,
           file.dump());
    }
    files.insert(file.get<std::string>());
  }
  TensorMap tensors;
  for (const std::string& file : files) {
    for (auto& [name, tensor] : read_one(index_path.parent_path() / file)) {
      if (!tensors.emplace(name, tensor).second) {
        fail("{}: {} is in more than one shard", index_path.string(), name);
      }
    }
  }
  for (const auto& [name, file] : weight_map.items()) {
    if (tensors.count(name) == 0) {
      fail("{}: {} is not in {}", index_path.string(), name, file.get<std::string>());
    }
  }
  return tensors;
}

}  // namespace

fs::path find_weights_file(const fs::path& path) {
  if (!fs::exists(path)) {
    fail(
        "{}: no such file or folder (expected a Hugging Face folder, or a file of weights: "
        ".safetensors, .bin, .pth or .pt)",
        path.string());
  }
  if (!fs::is_directory(path)) return path;
  for (const char* name : kInFolder) {
    if (fs::exists(path / name)) return path / name;
  }
  fail("{}: holds none of {}", path.string(), fmt::join(kInFolder, ", "));
}

TensorMap read_weights(const fs::path& file) {
  return file.string().ends_with(kIndexEnding) ? read_shards(file) : read_one(file);
}

}  // namespace tessera
