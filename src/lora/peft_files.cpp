#include "lora/peft_files.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "core/finite.h"
#include "core/json_file.h"
#include "core/weights_file.h"
#include "lora/joined_modules.h"
#include "nn/state_dict.h"

namespace tessera::lora {

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kPickledFile = "adapter_model.bin";  // of PEFT before 0.5, or on request
/// PEFT holds an adapted module inside another, whose bias it saves with the adapter.
const std::string kBaseBias = ".base_layer.bias", kBias = ".bias";
const std::string kMagnitudeSuffix = ".lora_magnitude_vector";

/// Of an adapter that isn't called "default", PEFT makes a folder inside: "; there is one in mine", or
/// nothing.
std::string adapters_inside(const fs::path& folder) {
  std::set<std::string> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (fs::exists(entry.path() / kAdapterConfigFile)) found.insert(entry.path().filename().string());
  }
  return found.empty() ? "" : fmt::format("; there is one in {}", fmt::join(found, ", "));
}

/// PEFT's key → the parameter's path here.
std::string parameter_path(const std::string& key, const ModuleNames& names) {
  std::string path = names.without_wrapper_prefix(without_peft_prefix(key));
  if (path.ends_with(kBaseBias)) path = path.substr(0, path.size() - kBaseBias.size()) + kBias;
  if (path.ends_with(kMagnitudeSuffix + ".weight")) path.resize(path.size() - std::string(".weight").size());
  return names.path_here(path);
}

/// The shortest list that means just the adapted modules: their last segments, or where that would mean
/// others too, their whole paths.
std::vector<std::string> minimal_targets(AdaptableModule& root, ModuleNaming naming) {
  std::set<std::string> segments, paths;
  std::size_t adapted = 0;
  for (const NamedLinear& module : adapted_linears(root)) {
    const std::string path = root.module_names().renamed(module.name, naming);
    segments.emplace(last_segment(path));
    paths.insert(path);
    ++adapted;
  }
  const std::vector<NamedLinear> all = named_linears(root);
  const auto meant = std::count_if(all.begin(), all.end(), [&](const NamedLinear& module) {
    const std::string path = root.module_names().renamed(module.name, naming);
    return segments.count(std::string(last_segment(path))) != 0;
  });
  if (static_cast<std::size_t>(meant) == adapted) return {segments.begin(), segments.end()};
  return {paths.begin(), paths.end()};
}

AdapterSelection selection_of(AdaptableModule& root, const LoraOptions& options, ModuleNaming naming) {
  const ModuleNames& names = root.module_names();
  AdapterSelection selection{minimal_targets(root, naming), {}, {}};
  for (const NamedLinear& module : adapted_linears(root)) {
    const std::int64_t rank = options.rank_of(module.name, names);
    const double alpha = options.alpha_of(module.name, names);
    const std::string path = names.renamed(module.name, naming);
    if (rank != options.r) selection.ranks.emplace_back(path, rank);
    if (alpha != options.lora_alpha) selection.alphas.emplace_back(path, alpha);
  }
  return selection;
}

/// Adapters that are there already must compute what the file's would.
void check_injected(AdaptableModule& root, const LoraOptions& options, const std::string& source) {
  for (const NamedLinear& module : adapted_linears(root)) {
    const nn::LoraAdapterOptions& here = module.linear->lora_options();
    const nn::LoraAdapterOptions there = adapter_options(options, module.name, root.module_names());
    if (here.r != there.r) {
      fail("{}: r: the model's adapters have {} ({}), the file's {}", source, here.r, module.name, there.r);
    }
    if (std::abs(here.scaling - there.scaling) > 1e-9 * std::abs(here.scaling)) {
      fail("{}: lora_alpha, use_rslora: the model's adapters have scaling {} ({}), the file's {}", source,
           here.scaling, module.name, there.scaling);
    }
    if (here.dora != there.dora) {
      fail("{}: use_dora: the model's adapters say {} ({}), the file says {}", source, here.dora, module.name,
           there.dora);
    }
  }
}

/// A parameter's path here → PEFT's, still in the naming of the modules here.
class PeftPaths {
 public:
  explicit PeftPaths(torch::nn::Module& root) {
    for (const NamedLinear& module : adapted_linears(root)) adapted_biases_.insert(module.name + kBias);
  }
  std::string of(const std::string& path) const {
    if (adapted_biases_.count(path) == 0) return path;
    return path.substr(0, path.size() - kBias.size()) + kBaseBias;
  }

 private:
  std::set<std::string> adapted_biases_;
};

/// How the model that the tensors are of calls its modules.
NamesInFile names_in(const TensorMap& tensors, const ModuleNames& names) {
  NamesInFile found;
  for (const auto& [key, tensor] : tensors) {
    if (names.is_legacy(key)) found.naming = ModuleNaming::kLegacy;
    if (const std::string_view prefix = names.wrapper_prefix(without_peft_prefix(key)); !prefix.empty())
      found.prefix = prefix;
  }
  return found;
}

/// Of a parameter that the file should have: the key in the words that its other keys are made of.
std::string expected_key(const ModuleNames& names, const NamesInFile& in_file, const PeftPaths& paths,
                         const std::string& parameter) {
  return kPeftPrefix + in_file.prefix + names.renamed(paths.of(parameter), in_file.naming);
}

/// The modules here that the tensors adapt.
std::set<std::string> modules_adapted_by(const TensorMap& tensors, const ModuleNames& names) {
  static const std::string kA = ".lora_A.weight";
  TensorMap by_path;
  for (const auto& [key, tensor] : tensors) {
    if (key.ends_with(kA)) by_path.emplace(parameter_path(key, names), tensor);
  }
  split_joined(names, by_path);
  std::set<std::string> adapted;
  for (const auto& [path, tensor] : by_path) adapted.insert(path.substr(0, path.size() - kA.size()));
  return adapted;
}

/// What PEFT writes twice, under a key of its own wrapper: with bias "all", the biases of modules_to_save and
/// of the modules that these stand in for.
bool is_repetition(const std::string& key) {
  return key.find(".original_module.") != std::string::npos ||
         key.find(".modules_to_save.") != std::string::npos;
}

}  // namespace

std::string hint_about_a_head(const TensorMap& tensors, const ModuleNames& names) {
  bool is_wrapped = false, has_head = false;
  for (const auto& [key, tensor] : tensors) {
    is_wrapped |= !names.wrapper_prefix(without_peft_prefix(key)).empty();
    has_head |= !names.is_in_backbone(without_peft_prefix(key));
  }
  if (!is_wrapped || !has_head) return {};
  return fmt::format(
      "\n  (it is of a {} with a head, which tessera adapter convert --backbone-only leaves out)",
      names.architecture);
}

TensorMap adapter_tensors(AdaptableModule& root, const LoraOptions& options, ModuleNaming naming) {
  const PeftPaths paths(root);
  TensorMap tensors;
  for (const auto& [name, tensor] : adapter_parameters(root, options)) tensors[paths.of(name)] = tensor;
  if (naming == ModuleNaming::kLegacy) join_parts(root.module_names(), tensors, "adapter");
  TensorMap named;
  for (const auto& [path, tensor] : tensors)
    named[kPeftPrefix + root.module_names().renamed(path, naming)] = tensor;
  return named;
}

void save_adapter(const fs::path& folder, AdaptableModule& root, const LoraOptions& options,
                  const AdapterDescription& description) {
  TORCH_CHECK(!adapted_linears(root).empty(), "save_adapter: there is no adapter to save");
  const TensorMap tensors = adapter_tensors(root, options, description.naming);
  check_injected(root, options, (folder / kAdapterConfigFile).string());
  const nlohmann::json config =
      adapter_config_json(options, selection_of(root, options, description.naming), description);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    fail("{}: the folder can't be made: {}", folder.string(), error.message());
  }
  write_safetensors(folder / kAdapterWeightsFile, tensors, {{"format", "pt"}});
  write_file_atomically(folder / kAdapterConfigFile, config.dump(2));
}

void copy_adapter(const LoraOptions& options, const TensorMap& tensors, AdaptableModule& root,
                  const std::string& source) {
  const ModuleNames& names = root.module_names();
  check_injected(root, options, source);
  TensorMap by_path;
  std::map<std::string, std::string> keys;
  for (const auto& [key, tensor] : tensors) {
    if (options.bias == LoraBias::kAll && is_repetition(key)) continue;
    const std::string path = parameter_path(key, names);
    if (!by_path.emplace(path, tensor).second) {
      fail("{}: {} is there under two names", source, key);
    }
    keys[path] = key;
  }
  split_joined(names, by_path);
  const PeftPaths paths(root);
  const NamesInFile in_file = names_in(tensors, names);
  try {
    nn::load_state_dict(adapter_parameters(root, options), by_path, {}, source, [&](const std::string& name) {
      const auto found = keys.find(name);
      return found != keys.end() ? found->second : expected_key(names, in_file, paths, name);
    });
  } catch (const Error& error) {
    fail("{}{}", error.what(), hint_about_a_head(tensors, names));
  }
}

LoraOptions load_adapter(const AdapterFiles& files, AdaptableModule& root) {
  const LoraOptions options = options_for(root, files);
  try {
    if (adapted_linears(root).empty()) inject_lora(root, options, /*seed=*/0);
  } catch (const Error& error) {
    fail("{}: {}{}", files.source, error.what(), hint_about_a_head(files.tensors, root.module_names()));
  }
  copy_adapter(options, files.tensors, root, files.source);
  return options;
}

LoraOptions load_adapter(const Json& adapter_config, const TensorMap& tensors, AdaptableModule& root,
                         const std::string& source) {
  return load_adapter(AdapterFiles::of(adapter_config, tensors, source, root.module_names()), root);
}

AdapterFiles AdapterFiles::of(Json config, TensorMap tensors, std::string source, const ModuleNames& names) {
  AdapterFiles files{parse_adapter_config(config, source), std::move(config), std::move(tensors),
                     std::move(source), &names};
  files.options.in_file = names_in(files.tensors, names);
  return files;
}

bool is_of(const AdapterFiles& files, const ModuleNames& names) {
  return std::any_of(files.tensors.begin(), files.tensors.end(),
                     [&](const auto& item) { return names.is_in_backbone(without_peft_prefix(item.first)); });
}

LoraOptions options_for(AdaptableModule& root, const AdapterFiles& files) {
  if (!files.tensors.empty() && !is_of(files, root.module_names())) {
    fail("{}: is no adapter of {}: it has {}", files.source, root.module_names().architecture,
         files.tensors.begin()->first);
  }
  LoraOptions in_any_names = files.options;
  in_any_names.in_file.reset();
  const std::set<std::string> adapted = modules_adapted_by(files.tensors, root.module_names());
  const bool is_mixed = !means_just(root, files.options, adapted) && means_just(root, in_any_names, adapted);
  return is_mixed ? in_any_names : files.options;
}

AdapterFiles read_adapter(const fs::path& folder, const ModuleNames& names) {
  const auto refuse = [&](const char* file) {
    fail("{}: there is no {}; expected a folder with PEFT's {} and {} or {}{}", folder.string(), file,
         kAdapterConfigFile, kAdapterWeightsFile, kPickledFile, adapters_inside(folder));
  };
  if (!fs::exists(folder / kAdapterConfigFile)) refuse(kAdapterConfigFile);
  if (!fs::exists(adapter_weights_file(folder))) refuse(kAdapterWeightsFile);
  const Json config = read_json_file<Json>(folder / kAdapterConfigFile);
  parse_adapter_config(config, folder.string());  // before anything is said of the tensors
  TensorMap tensors = read_weights(adapter_weights_file(folder));
  for (const auto& [key, tensor] : tensors)
    check_weights(tensor, fmt::format("{}: tensor '{}'", adapter_weights_file(folder).string(), key));
  return AdapterFiles::of(config, std::move(tensors), folder.string(), names);
}

fs::path adapter_weights_file(const fs::path& folder) {
  const fs::path pickled = folder / kPickledFile;
  return !fs::exists(folder / kAdapterWeightsFile) && fs::exists(pickled) ? pickled
                                                                          : folder / kAdapterWeightsFile;
}

LoraOptions load_adapter(const fs::path& folder, AdaptableModule& root) {
  return load_adapter(read_adapter(folder, root.module_names()), root);
}

}  // namespace tessera::lora
