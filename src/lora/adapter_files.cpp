#include "lora/adapter_files.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/publish_folder.h"
#include "lora/joined_modules.h"
#include "lora/lora_targets.h"
#include "nn/linear.h"

namespace tessera::lora {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const std::string kA = ".lora_A.weight", kB = ".lora_B.weight";

/// "layer.10" comes behind "layer.9".
bool comes_before(const std::string& a, const std::string& b) {
  std::size_t i = 0, j = 0;
  while (i < a.size() && j < b.size()) {
    const auto digits = [](const std::string& text, std::size_t from) {
      std::size_t end = from;
      while (end < text.size() && std::isdigit(static_cast<unsigned char>(text[end])) != 0) ++end;
      return end;
    };
    const std::size_t end_a = digits(a, i), end_b = digits(b, j);
    if (end_a > i && end_b > j) {
      const std::string of_a = a.substr(i, end_a - i), of_b = b.substr(j, end_b - j);
      if (of_a.size() != of_b.size()) return of_a.size() < of_b.size();
      if (of_a != of_b) return of_a < of_b;
      i = end_a;
      j = end_b;
    } else if (a[i] != b[j]) {
      return a[i] < b[j];
    } else {
      ++i;
      ++j;
    }
  }
  return a.size() - i < b.size() - j;
}

bool names_one(const std::string& target, const std::vector<AdaptedModule>& modules) {
  return std::any_of(modules.begin(), modules.end(),
                     [&](const AdaptedModule& module) { return has_last_segments(module.name, target); });
}

/// Dinov2ForImageClassification → Dinov2Model.
void name_backbone_class(Json& config) {
  if (config.contains("task_type") && config["task_type"] != "FEATURE_EXTRACTION")
    config["task_type"] = nullptr;
  const auto mapping = config.find("auto_mapping");
  if (mapping == config.end() || !mapping->is_object()) return;
  const Json name = mapping->value("base_model_class", Json());
  if (!name.is_string()) return;
  const std::string of_wrapper = name.get<std::string>();
  const std::size_t at = of_wrapper.find("For");
  if (at != std::string::npos) (*mapping)["base_model_class"] = of_wrapper.substr(0, at) + "Model";
}

/// Whether a list of names, or all-linear, says which modules are adapted, and nothing else does.
bool is_plain_list(const LoraOptions& options, const std::vector<AdaptedModule>& modules) {
  const ModuleSelection& wanted = options.target_modules;
  if (!wanted.pattern.empty() || !options.exclude_modules.empty() || !options.layers_to_transform.empty() ||
      !options.is_uniform())
    return false;
  return wanted.is_all_linear() ||
         std::all_of(modules.begin(), modules.end(), [&](const AdaptedModule& module) {
           return std::any_of(wanted.names.begin(), wanted.names.end(), [&](const std::string& target) {
             return has_last_segments(module.name, target);
           });
         });
}

}  // namespace

const at::Tensor& matrix_of(const AdapterFiles& files, const std::string& module, const std::string& which) {
  const auto found = std::find_if(files.tensors.begin(), files.tensors.end(), [&](const auto& item) {
    return without_peft_prefix(item.first) == module + which;
  });
  if (found == files.tensors.end()) fail("{}: {}{} is missing", files.source, module, which);
  if (found->second.dim() != 2 || !at::isFloatingType(found->second.scalar_type()))
    fail("{}: {}: expected a matrix of a float type, found {} {}", files.source, found->first,
         fmt::format("[{}]", fmt::join(found->second.sizes(), ", ")), toString(found->second.scalar_type()));
  return found->second;
}

ModuleNaming naming_of(const AdapterFiles& files) { return files.options.in_file.value().naming; }

std::vector<AdaptedModule> adapted_modules(const AdapterFiles& files) {
  std::vector<AdaptedModule> modules;
  for (const auto& [key, tensor] : files.tensors) {
    const std::string name = without_peft_prefix(key);
    if (name.ends_with(kB)) matrix_of(files, name.substr(0, name.size() - kB.size()), kA);
    if (!name.ends_with(kA)) continue;
    AdaptedModule module;
    module.name = name.substr(0, name.size() - kA.size());
    const at::Tensor &a = matrix_of(files, module.name, kA), &b = matrix_of(files, module.name, kB);
    module.r = files.options.rank_of(module.name, *files.names);
    module.alpha = files.options.alpha_of(module.name, *files.names);
    module.scaling = files.options.scaling_of(module.name, *files.names);
    module.in_features = a.size(1);
    module.out_features = b.size(0);
    if (a.size(0) != module.r || b.size(1) != module.r)
      fail("{}: {}: expected rank {} as the configuration says, found lora_A [{}] and lora_B [{}]",
           files.source, module.name, module.r, fmt::join(a.sizes(), ", "), fmt::join(b.sizes(), ", "));
    modules.push_back(module);
  }
  if (modules.empty()) fail("{}: there is no lora_A.weight in it", files.source);
  std::sort(modules.begin(), modules.end(), [](const AdaptedModule& one, const AdaptedModule& other) {
    return comes_before(one.name, other.name);
  });
  return modules;
}

at::Tensor weight_update(const AdapterFiles& files, const AdaptedModule& module) {
  return nn::with_update(at::zeros({module.out_features, module.in_features}, at::kDouble),
                         matrix_of(files, module.name, kA), matrix_of(files, module.name, kB),
                         module.scaling);
}

namespace {

/// Says in `config` which modules are adapted, under other names: by the list that says it already, or where
/// more than a list does, by each module's target, rank and α.
/// @param rename  a target or a module's name → those that it has in the result
template <typename Rename>
void select_modules(Json& config, const LoraOptions& options, const std::vector<AdaptedModule>& modules,
                    const Rename& rename) {
  if (is_plain_list(options, modules)) {
    if (options.target_modules.is_all_linear()) return;
    std::set<std::string> targets;
    for (const std::string& target : options.target_modules.names) {
      // One that means nothing under its own name might mean something under another.
      if (!names_one(target, modules)) continue;
      for (const std::string& name : rename(target)) targets.insert(name);
    }
    config["target_modules"] = targets;
    return;
  }
  std::vector<std::string> targets;
  Json ranks = Json::object(), alphas = Json::object();
  for (const AdaptedModule& module : modules) {
    for (const std::string& name : rename(module.name)) {
      if (std::find(targets.begin(), targets.end(), name) == targets.end()) targets.push_back(name);
      if (module.r != options.r) ranks[name] = module.r;
      if (module.alpha != options.lora_alpha) alphas[name] = module.alpha;
    }
  }
  config["target_modules"] = targets;
  config["rank_pattern"] = ranks;
  config["alpha_pattern"] = alphas;
  for (const char* field : {"exclude_modules", "layers_to_transform", "layers_pattern"})
    config[field] = nullptr;
}

}  // namespace

AdapterFiles convert_adapter(const AdapterFiles& files, ModuleNaming naming) {
  TensorMap tensors = files.tensors, renamed;
  if (naming == ModuleNaming::kCurrent) {
    split_joined(*files.names, tensors);
  } else {
    join_parts(*files.names, tensors, files.source);
  }
  for (const auto& [key, tensor] : tensors) {
    if (!renamed.emplace(files.names->renamed(key, naming), tensor).second)
      fail("{}: {} is there under two names", files.source, key);
  }
  Json config = files.config;
  select_modules(config, files.options, adapted_modules(files),
                 [&](const std::string& name) { return files.names->renamed_targets(name, naming); });
  return AdapterFiles::of(std::move(config), std::move(renamed), files.source, *files.names);
}

AdapterFiles without_wrapper(const AdapterFiles& files) {
  const ModuleNames& names = *files.names;
  if (files.options.in_file.value().prefix.empty()) return files;
  TensorMap tensors;
  for (const auto& [key, tensor] : files.tensors) {
    if (!tensors.emplace(kPeftPrefix + names.without_wrapper_prefix(without_peft_prefix(key)), tensor).second)
      fail("{}: {} is there under two names", files.source, key);
  }
  Json config = files.config;
  select_modules(config, files.options, adapted_modules(files),
                 [&](const std::string& name) { return std::vector{names.without_wrapper_prefix(name)}; });
  std::vector<std::string> saved = files.options.modules_to_save;
  for (std::string& name : saved) name = names.without_wrapper_prefix(name);
  if (!saved.empty()) config["modules_to_save"] = saved;
  name_backbone_class(config);
  return AdapterFiles::of(std::move(config), std::move(tensors), files.source, *files.names);
}

AdapterFiles without_head(const AdapterFiles& files) {
  const ModuleNames& names = *files.names;
  const AdapterFiles whole = without_wrapper(files);
  TensorMap tensors = whole.tensors;
  std::erase_if(tensors,
                [&](const auto& item) { return !names.is_in_backbone(without_peft_prefix(item.first)); });
  if (tensors.empty()) fail("{}: no tensor in it belongs to a {} backbone", files.source, names.architecture);
  Json config = whole.config;
  std::vector<AdaptedModule> modules = adapted_modules(whole);
  std::erase_if(modules, [&](const AdaptedModule& module) { return !names.is_in_backbone(module.name); });
  select_modules(config, whole.options, modules, [](const std::string& name) { return std::vector{name}; });
  Json saved = Json::array();
  for (const std::string& name : whole.options.modules_to_save) {
    LoraOptions of_one = whole.options;
    of_one.modules_to_save = {name};
    const bool holds_one = std::any_of(tensors.begin(), tensors.end(), [&](const auto& item) {
      const std::string path = without_peft_prefix(item.first);
      return path.find(".lora_") == std::string::npos &&
             is_within_saved(path.substr(0, path.rfind('.')), of_one, names);
    });
    if (holds_one) saved.push_back(name);
  }
  config["modules_to_save"] = saved.empty() ? Json() : saved;
  return AdapterFiles::of(std::move(config), std::move(tensors), files.source, *files.names);
}

void write_adapter(const fs::path& folder, const AdapterFiles& files) {
  if (fs::exists(folder)) fail("{}: exists already", folder.string());
  publish_folder(
      folder,
      [&](const fs::path& fresh) {
        write_safetensors(fresh / kAdapterWeightsFile, files.tensors, {{"format", "pt"}});
        write_file_atomically(fresh / kAdapterConfigFile, nlohmann::json(files.config).dump(2));
      },
      OldFolder::kRefuse);
}

}  // namespace tessera::lora
