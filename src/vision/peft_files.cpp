#include "vision/peft_files.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "vision/tensor_list.h"

namespace tessera::vision {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";
const std::string kPrefix = "base_model.model.";

/// Fields that say nothing about what is computed, or only how an adapter was initialised.
const std::set<std::string>& descriptive_fields() {
  static const std::set<std::string> fields = {
      "auto_mapping", "base_model_name_or_path", "corda_config",  "eva_config",   "inference_mode",
      "loftq_config", "lora_ga_config",          "megatron_core", "peft_version", "qalora_group_size",
      "revision",     "runtime_config",          "task_type"};
  return fields;
}

/// Whether a field's value asks for nothing.
bool is_neutral(const json& value) {
  return value.is_null() || value == false || ((value.is_array() || value.is_object()) && value.empty());
}

/// Initialisers that leave the base weights as they are; the others subtract what they put into the adapter.
bool keeps_base_weights(const json& init_lora_weights) {
  static const std::set<std::string> names = {"gaussian", "eva", "orthogonal"};
  return init_lora_weights.is_null() || init_lora_weights.is_boolean() ||
         (init_lora_weights.is_string() && names.count(init_lora_weights.get<std::string>()) != 0);
}

double read_number(const json& value, const char* field, const std::string& source) {
  if (!value.is_number()) {
    fail("{}: {}: expected a number, found {}", source, field, value.dump());
  }
  return value.get<double>();
}

std::vector<std::string> read_targets(const json& value, const std::string& source) {
  if (value == "all-linear") {
    return {"all-linear"};
  }
  if (value.is_string()) {
    fail(
        "{}: target_modules: a regular expression is not supported, found {}; give a list of names or "
        "\"all-linear\"",
        source, value.dump());
  }
  if (!value.is_array() || value.empty() ||
      !std::all_of(value.begin(), value.end(), [](const json& item) { return item.is_string(); })) {
    fail("{}: target_modules: expected a list of names or \"all-linear\", found {}", source, value.dump());
  }
  return value.get<std::vector<std::string>>();
}

void check_supported(const json& config, const std::string& source) {
  static const std::set<std::string> read = {
      "peft_type",      "r",          "lora_alpha", "lora_dropout",
      "target_modules", "use_rslora", "bias",       "init_lora_weights"};
  for (const auto& [field, value] : config.items()) {
    if (read.count(field) == 0 && descriptive_fields().count(field) == 0 && !is_neutral(value)) {
      fail("{}: {}: not supported, found {}", source, field, value.dump());
    }
  }
  if (config.value("peft_type", json()) != "LORA") {
    fail("{}: peft_type: expected \"LORA\", found {}", source, config.value("peft_type", json()).dump());
  }
  const json bias = config.value("bias", json("none"));
  if (bias != "none" && !bias.is_null()) {
    fail("{}: bias: only \"none\" is supported, found {}", source, bias.dump());
  }
  const json init = config.value("init_lora_weights", json(true));
  if (!keeps_base_weights(init)) {
    fail("{}: init_lora_weights: {} changes the base weights, which is not supported", source, init.dump());
  }
}

/// PEFT's key → the parameter's path here.
std::string parameter_path(const std::string& key) {
  static const std::string kWrapper = "dinov2.";
  std::string path = key.starts_with(kPrefix) ? key.substr(kPrefix.size()) : key;
  if (path.starts_with(kWrapper)) {
    path = path.substr(kWrapper.size());
  }
  return rename_path(path, ModuleNaming::kLegacy);
}

std::string path_in(const std::string& name, ModuleNaming naming) {
  if (naming == ModuleNaming::kCurrent && name.ends_with("mlp.weights_in")) {
    fail(
        "{}: transformers 5 holds this matrix as two (gate_proj, up_proj), so that its adapter has no name "
        "there; "
        "save it with the legacy naming",
        name);
  }
  return rename_path(name, naming);
}

/// The shortest list that means just the adapted modules: their last segments, or where that would mean
/// others too, their whole paths.
std::vector<std::string> minimal_targets(torch::nn::Module& root, ModuleNaming naming) {
  std::set<std::string> segments;
  std::vector<std::string> paths;
  for (const NamedLinear& item : adapted_linears(root)) {
    paths.push_back(path_in(item.name, naming));
    segments.insert(paths.back().substr(paths.back().rfind('.') + 1));
  }
  const std::vector<NamedLinear> all = named_linears(root);
  const auto meant = std::count_if(all.begin(), all.end(), [&](const NamedLinear& item) {
    const std::string path = rename_path(item.name, naming);
    return segments.count(path.substr(path.rfind('.') + 1)) != 0;
  });
  if (static_cast<std::size_t>(meant) == paths.size()) {
    return {segments.begin(), segments.end()};
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

/// Every field of PEFT 0.21's LoraConfig, as its save_pretrained writes them. nlohmann's objects sort their
/// keys.
json adapter_config_json(torch::nn::Module& root, const LoraOptions& options,
                         const AdapterDescription& description) {
  json config = {{"peft_type", "LORA"},
                 {"peft_version", "0.21.2"},  // whose fields these are
                 {"r", options.r},
                 {"lora_dropout", options.lora_dropout},
                 {"target_modules", minimal_targets(root, description.naming)},
                 {"use_rslora", options.use_rslora},
                 {"bias", "none"},
                 {"init_lora_weights", true},
                 {"inference_mode", true},
                 {"alpha_pattern", json::object()},
                 {"rank_pattern", json::object()},
                 {"loftq_config", json::object()},
                 {"megatron_core", "megatron.core"},
                 {"qalora_group_size", 16}};
  const bool whole = options.lora_alpha == std::nearbyint(options.lora_alpha);
  config["lora_alpha"] =
      whole ? json(static_cast<std::int64_t>(options.lora_alpha)) : json(options.lora_alpha);
  for (const char* field : {"ensure_weight_tying", "fan_in_fan_out", "lora_bias", "use_dora", "use_qalora"}) {
    config[field] = false;
  }
  for (const char* field : {"alora_invocation_tokens",
                            "arrow_config",
                            "auto_mapping",
                            "base_model_name_or_path",
                            "corda_config",
                            "eva_config",
                            "exclude_modules",
                            "kasa_config",
                            "layer_replication",
                            "layers_pattern",
                            "layers_to_transform",
                            "lora_ga_config",
                            "megatron_config",
                            "modules_to_save",
                            "monteclora_config",
                            "revision",
                            "target_parameters",
                            "task_type",
                            "trainable_token_indices",
                            "use_bdlora",
                            "velora_config"}) {
    config[field] = nullptr;
  }
  if (!description.base_model_name_or_path.empty()) {
    config["base_model_name_or_path"] = description.base_model_name_or_path;
  }
  if (!description.base_model_class.empty()) {
    config["auto_mapping"] = {{"base_model_class", description.base_model_class},
                              {"parent_library", description.parent_library}};
  }
  return config;
}

/// Adapters that are there already must compute what the file's would.
void check_injected(torch::nn::Module& root, const LoraOptions& options, const std::string& source) {
  for (const NamedLinear& item : adapted_linears(root)) {
    const LoraAdapterOptions& here = item.linear->lora_options();
    if (here.r != options.r) {
      fail("{}: r: the model's adapters have {} ({}), the file's {}", source, here.r, item.name, options.r);
    }
    if (std::abs(here.scaling - options.scaling()) > 1e-9 * std::abs(here.scaling)) {
      fail("{}: lora_alpha, use_rslora: the model's adapters have scaling {} ({}), the file's {}", source,
           here.scaling, item.name, options.scaling());
    }
  }
}

}  // namespace

LoraOptions parse_adapter_config(const json& config, const std::string& source) {
  if (!config.is_object()) {
    fail("{}: expected a JSON object, found {}", source, config.type_name());
  }
  check_supported(config, source);
  LoraOptions options;
  const json r = config.value("r", json(8));
  if (!r.is_number_integer()) {
    fail("{}: r: expected an integer, found {}", source, r.dump());
  }
  options.r = r.get<std::int64_t>();
  options.lora_alpha = read_number(config.value("lora_alpha", json(8)), "lora_alpha", source);
  options.lora_dropout = read_number(config.value("lora_dropout", json(0.0)), "lora_dropout", source);
  const json use_rslora = config.value("use_rslora", json(false));
  if (!use_rslora.is_boolean()) {
    fail("{}: use_rslora: expected true or false, found {}", source, use_rslora.dump());
  }
  options.use_rslora = use_rslora.get<bool>();
  options.target_modules = read_targets(config.value("target_modules", json()), source);
  options.check(source);
  return options;
}

TensorMap adapter_tensors(torch::nn::Module& root, ModuleNaming naming) {
  TensorMap tensors;
  for (const NamedLinear& item : adapted_linears(root)) {
    const std::string key = kPrefix + path_in(item.name, naming);
    tensors[key + ".lora_A.weight"] = item.linear->lora_a();
    tensors[key + ".lora_B.weight"] = item.linear->lora_b();
  }
  return tensors;
}

void save_adapter(const fs::path& folder, torch::nn::Module& root, const LoraOptions& options,
                  const AdapterDescription& description) {
  const TensorMap tensors = adapter_tensors(root, description.naming);
  TORCH_CHECK(!tensors.empty(), "save_adapter: there is no adapter to save");
  check_injected(root, options, (folder / kConfigFile).string());
  const json config = adapter_config_json(root, options, description);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    fail("{}: the folder can't be made: {}", folder.string(), error.message());
  }
  write_safetensors(folder / kWeightsFile, tensors, {{"format", "pt"}});
  write_file_atomically(folder / kConfigFile, config.dump(2));
}

LoraOptions load_adapter(const json& adapter_config, const TensorMap& tensors, torch::nn::Module& root,
                         const std::string& source) {
  const LoraOptions options = parse_adapter_config(adapter_config, source);
  TensorMap by_path;
  for (const auto& [key, tensor] : tensors) {
    if (!by_path.emplace(parameter_path(key), tensor).second) {
      fail("{}: {} is there under two names", source, key);
    }
  }
  if (adapted_linears(root).empty()) {
    inject_lora(root, options, /*seed=*/0);
  } else {
    check_injected(root, options, source);
  }
  copy_into_parameters(lora_parameters(root), by_path, {}, source);
  return options;
}

LoraOptions load_adapter(const fs::path& folder, torch::nn::Module& root) {
  for (const char* file : {kConfigFile, kWeightsFile}) {
    if (!fs::exists(folder / file)) {
      fail("{}: there is no {}; expected a folder with PEFT's {} and {}", folder.string(), file, kConfigFile,
           kWeightsFile);
    }
  }
  json config;
  try {
    config = json::parse(read_file(folder / kConfigFile));
  } catch (const json::exception& error) {
    fail("{}: not valid JSON: {}", (folder / kConfigFile).string(), error.what());
  }
  return load_adapter(config, SafetensorsFile(folder / kWeightsFile).tensors(), root, folder.string());
}

}  // namespace tessera::vision
