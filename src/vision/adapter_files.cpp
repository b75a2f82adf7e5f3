#include "vision/adapter_files.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/publish_folder.h"
#include "vision/gate_names.h"

namespace tessera::vision {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

const std::string kPrefix = "base_model.model.";
const std::string kA = ".lora_A.weight", kB = ".lora_B.weight";

std::string bare(const std::string& key) {
  return key.starts_with(kPrefix) ? key.substr(kPrefix.size()) : key;
}

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

const at::Tensor& matrix_of(const AdapterFiles& files, const std::string& module, const std::string& which) {
  const auto found = std::find_if(files.tensors.begin(), files.tensors.end(),
                                  [&](const auto& item) { return bare(item.first) == module + which; });
  if (found == files.tensors.end()) fail("{}: {}{} is missing", files.source, module, which);
  if (found->second.dim() != 2 || !at::isFloatingType(found->second.scalar_type()))
    fail("{}: {}: expected a matrix of a float type, found {} {}", files.source, found->first,
         fmt::format("[{}]", fmt::join(found->second.sizes(), ", ")), toString(found->second.scalar_type()));
  return found->second;
}

/// A last segment ("query") or a path in the naming; of "weights_in" the current one has two.
std::vector<std::string> renamed_targets(const std::string& target, ModuleNaming naming) {
  static const std::string kWhole = "weights_in";
  if (naming == ModuleNaming::kCurrent && target.ends_with(kWhole)) {
    const std::string place = target.substr(0, target.size() - kWhole.size());
    return {place + "gate_proj", place + "up_proj"};
  }
  if (target.find('.') != std::string::npos) return {rename_path(target, naming)};
  for (const char* place : {"attention.attention.", "attention.output.", "attention.", "mlp."}) {
    const std::string renamed = rename_path(place + target, naming);
    if (renamed != place + target) return {renamed.substr(renamed.rfind('.') + 1)};
  }
  return {target};
}

/// Whether a module of that path bears such a name, by PEFT's rule for lists.
bool bears(const std::string& path, const std::string& target) {
  return path == target || path.ends_with("." + target);
}

/// Whether a tensor belongs to a module that modules_to_save holds by this name.
bool is_saved_by(const std::string& end, const std::string& path) {
  if (path.find(".lora_") != std::string::npos) return false;
  for (std::size_t at = path.find('.'); at != std::string::npos; at = path.find('.', at + 1)) {
    if (path.substr(0, at).ends_with(end)) return true;
  }
  return false;
}

std::string without_prefix(const std::string& path) { return path.substr(wrapper_prefix(path).size()); }

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
           return std::any_of(wanted.names.begin(), wanted.names.end(),
                              [&](const std::string& target) { return bears(module.name, target); });
         });
}

}  // namespace

ModuleNaming naming_of(const AdapterFiles& files) { return files.options.names.value().naming; }

std::vector<AdaptedModule> adapted_modules(const AdapterFiles& files) {
  std::vector<AdaptedModule> modules;
  for (const auto& [key, tensor] : files.tensors) {
    const std::string name = bare(key);
    if (name.ends_with(kB)) matrix_of(files, name.substr(0, name.size() - kB.size()), kA);
    if (!name.ends_with(kA)) continue;
    AdaptedModule module;
    module.name = name.substr(0, name.size() - kA.size());
    const at::Tensor &a = matrix_of(files, module.name, kA), &b = matrix_of(files, module.name, kB);
    module.r = files.options.rank_of(module.name);
    module.alpha = files.options.alpha_of(module.name);
    module.scaling = files.options.scaling_of(module.name);
    module.in_features = a.size(1);
    module.out_features = b.size(0);
    if (a.size(0) != module.r || b.size(1) != module.r)
      fail("{}: {}: expected rank {} as the configuration says, found lora_A [{}] and lora_B [{}]",
           files.source, module.name, module.r, fmt::join(a.sizes(), ", "), fmt::join(b.sizes(), ", "));
    module.update_norm = weight_update(files, module).norm().item<double>();
    modules.push_back(module);
  }
  if (modules.empty()) fail("{}: there is no lora_A.weight in it", files.source);
  std::sort(modules.begin(), modules.end(), [](const AdaptedModule& one, const AdaptedModule& other) {
    return comes_before(one.name, other.name);
  });
  return modules;
}

at::Tensor weight_update(const AdapterFiles& files, const AdaptedModule& module) {
  return at::mm(matrix_of(files, module.name, kB).to(at::kDouble),
                matrix_of(files, module.name, kA).to(at::kDouble)) *
         module.scaling;
}

namespace {

/// Modules → targets, ranks and α for each of them, where more than a list of names says which they are.
/// @param rename  a module's name → those that it has in the result
template <typename Rename>
void name_each_module(Json& config, const LoraOptions& options, const std::vector<AdaptedModule>& modules,
                      const Rename& rename) {
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
    split_gates(tensors);
  } else {
    join_gates(tensors, files.source);
  }
  for (const auto& [key, tensor] : tensors) {
    if (!renamed.emplace(rename_path(key, naming), tensor).second)
      fail("{}: {} is there under two names", files.source, key);
  }
  Json config = files.config;
  const std::vector<AdaptedModule> modules = adapted_modules(files);
  const ModuleSelection& wanted = files.options.target_modules;
  if (!is_plain_list(files.options, modules)) {
    name_each_module(config, files.options, modules,
                     [&](const std::string& name) { return renamed_targets(name, naming); });
  } else if (!wanted.is_all_linear()) {
    std::set<std::string> targets;
    for (const std::string& target : wanted.names) {
      // One that means nothing in its own naming might mean something in the other.
      if (std::none_of(modules.begin(), modules.end(),
                       [&](const AdaptedModule& module) { return bears(module.name, target); }))
        continue;
      for (const std::string& name : renamed_targets(target, naming)) targets.insert(name);
    }
    config["target_modules"] = targets;
  }
  return AdapterFiles::of(std::move(config), std::move(renamed), files.source);
}

AdapterFiles without_wrapper(const AdapterFiles& files) {
  if (files.options.names.value().prefix.empty()) return files;
  TensorMap tensors;
  for (const auto& [key, tensor] : files.tensors) {
    if (!tensors.emplace(kPrefix + without_prefix(bare(key)), tensor).second)
      fail("{}: {} is there under two names", files.source, key);
  }
  Json config = files.config;
  const LoraOptions& options = files.options;
  const auto plain = [](std::vector<std::string> names) {
    for (std::string& name : names) name = without_prefix(name);
    return names;
  };
  const std::vector<AdaptedModule> modules = adapted_modules(files);
  if (!is_plain_list(options, modules)) {
    name_each_module(config, options, modules,
                     [](const std::string& name) { return std::vector{without_prefix(name)}; });
  } else if (!options.target_modules.is_all_linear()) {
    config["target_modules"] = plain(options.target_modules.names);
  }
  if (!options.modules_to_save.empty()) config["modules_to_save"] = plain(options.modules_to_save);
  name_backbone_class(config);
  return AdapterFiles::of(std::move(config), std::move(tensors), files.source);
}

AdapterFiles without_head(const AdapterFiles& files) {
  const AdapterFiles whole = without_wrapper(files);
  TensorMap tensors = whole.tensors;
  std::erase_if(tensors, [](const auto& item) { return !is_in_backbone(bare(item.first)); });
  if (tensors.empty()) fail("{}: no tensor in it belongs to a DINOv2 backbone", files.source);
  Json config = whole.config;
  const LoraOptions& options = whole.options;
  std::vector<AdaptedModule> modules = adapted_modules(whole);
  std::erase_if(modules, [](const AdaptedModule& module) { return !is_in_backbone(module.name); });
  if (!is_plain_list(options, modules)) {
    name_each_module(config, options, modules, [](const std::string& name) { return std::vector{name}; });
  } else if (!options.target_modules.is_all_linear()) {
    std::vector<std::string> targets = options.target_modules.names;
    std::erase_if(targets, [&](const std::string& target) {
      return std::none_of(modules.begin(), modules.end(),
                          [&](const AdaptedModule& module) { return bears(module.name, target); });
    });
    config["target_modules"] = targets;
  }
  std::vector<std::string> saved = options.modules_to_save;
  std::erase_if(saved, [&](const std::string& end) {
    return std::none_of(tensors.begin(), tensors.end(),
                        [&](const auto& item) { return is_saved_by(end, bare(item.first)); });
  });
  config["modules_to_save"] = saved.empty() ? Json() : Json(saved);
  return AdapterFiles::of(std::move(config), std::move(tensors), files.source);
}

void write_adapter(const fs::path& folder, const AdapterFiles& files) {
  if (fs::exists(folder)) fail("{}: exists already", folder.string());
  publish_folder(folder, [&](const fs::path& fresh) {
    write_safetensors(fresh / "adapter_model.safetensors", files.tensors, {{"format", "pt"}});
    write_file_atomically(fresh / "adapter_config.json", nlohmann::json(files.config).dump(2));
  });
}

std::shared_ptr<torch::nn::Module> skeleton_of(const std::vector<const AdapterFiles*>& adapters) {
  auto root = std::make_shared<torch::nn::Module>();
  std::map<std::string, LinearImpl*> linears;
  std::map<std::string, std::shared_ptr<torch::nn::Module>> places = {{"", root}};
  for (const AdapterFiles* files : adapters) {
    for (const AdaptedModule& module : adapted_modules(*files)) {
      const std::string path = path_here(module.name);
      const auto known = linears.find(path);
      if (known != linears.end()) {
        if (known->second->in_features() != module.in_features ||
            known->second->out_features() != module.out_features)
          fail("{}: {}: expected {} inputs and {} outputs as in the adapter before, found {} and {}",
               files->source, module.name, known->second->in_features(), known->second->out_features(),
               module.in_features, module.out_features);
        continue;
      }
      std::string parent;
      for (std::size_t end = path.find('.'); end != std::string::npos; end = path.find('.', end + 1)) {
        const std::string place = path.substr(0, end);
        auto& child = places[place];
        if (!child) {
          child = places.at(parent)->register_module(place.substr(parent.empty() ? 0 : parent.size() + 1),
                                                     std::make_shared<torch::nn::Module>());
        }
        parent = place;
      }
      const auto linear = places.at(parent)->register_module(
          path.substr(parent.empty() ? 0 : parent.size() + 1),
          std::make_shared<LinearImpl>(module.in_features, module.out_features));
      linears[path] = linear.get();
    }
  }
  return root;
}

}  // namespace tessera::vision
