#include "core/weights_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

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
constexpr std::array<std::string_view, 4> kWrappers = {"module", "_orig_mod", "_fsdp_wrapped_module",
                                                       "_checkpoint_wrapped_module"};

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
           json_text(file));
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

/// A name without the segments that are a wrapper's.
std::string unwrapped(std::string_view name) {
  std::string result;
  while (true) {
    const std::size_t dot = name.find('.');
    const std::string_view segment = name.substr(0, dot);
    // The last segment is the tensor's own name.
    if (dot == std::string_view::npos) return result.append(segment);
    if (std::find(kWrappers.begin(), kWrappers.end(), segment) == kWrappers.end())
      result.append(segment).append(".");
    name.remove_prefix(dot + 1);
  }
}

TensorMap without_wrappers(TensorMap tensors, const std::string& source) {
  TensorMap result;
  for (auto& [name, tensor] : tensors) {
    if (!result.emplace(unwrapped(name), std::move(tensor)).second) {
      fail("{}: {} is there twice, with {} in its name and without", source, quoted(unwrapped(name)),
           fmt::join(kWrappers, ", "));
    }
  }
  return result;
}

/// The prefix, if any, without which names of `longer` are in `shorter`: of all of `longer`, or most of it.
std::string prefix_before(const std::vector<std::string>& longer, const std::vector<std::string>& shorter) {
  if (longer.empty()) return {};
  const std::set<std::string> known(shorter.begin(), shorter.end());
  for (const std::string& example : {longer.front(), longer.back()}) {
    for (std::size_t dot = example.find('.'); dot != std::string::npos; dot = example.find('.', dot + 1)) {
      const std::string prefix = example.substr(0, dot + 1);
      const auto count = std::count_if(longer.begin(), longer.end(), [&](const std::string& name) {
        return name.starts_with(prefix) && known.count(name.substr(prefix.size())) != 0;
      });
      if (2 * static_cast<std::size_t>(count) > longer.size()) return prefix;
    }
  }
  return {};
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
  return without_wrappers(file.string().ends_with(kIndexEnding) ? read_shards(file) : read_one(file),
                          file.string());
}

at::ScalarType stored_dtype(const fs::path& path) {
  at::ScalarType narrowest = at::kFloat;
  for (const auto& [name, tensor] : read_weights(find_weights_file(path))) {
    if (tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16)
      narrowest = tensor.scalar_type();
  }
  return narrowest;
}

std::string hint_about_prefix(const std::vector<std::string>& missing,
                              const std::vector<std::string>& unexpected) {
  if (const std::string prefix = prefix_before(unexpected, missing); !prefix.empty()) {
    return fmt::format(
        "\n  (the names of the file have \"{0}\" in front of the model's; save them without it, in Python: "
        "{{k.removeprefix(\"{0}\"): v for k, v in state_dict.items()}})",
        prefix);
  }
  if (const std::string prefix = prefix_before(missing, unexpected); !prefix.empty()) {
    return fmt::format(
        "\n  (the names of the file lack \"{0}\" in front; save them with it, in Python: {{\"{0}\" + k: v "
        "for k, v in state_dict.items()}})",
        prefix);
  }
  return {};
}

}  // namespace tessera
