#include "lora/peft_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/json_file.h"

namespace tessera::lora {

namespace {

using nlohmann::json;
using Json = nlohmann::ordered_json;

/// Fields that say nothing about what is computed, or only how an adapter was initialised.
const std::set<std::string>& descriptive_fields() {
  static const std::set<std::string> fields = {
      "auto_mapping", "base_model_name_or_path", "corda_config",  "eva_config",   "inference_mode",
      "loftq_config", "lora_ga_config",          "megatron_core", "peft_version", "qalora_group_size",
      "revision",     "runtime_config",          "task_type"};
  return fields;
}

const std::set<std::string>& read_fields() {
  static const std::set<std::string> fields = {"peft_type",
                                               "r",
                                               "lora_alpha",
                                               "lora_dropout",
                                               "target_modules",
                                               "use_rslora",
                                               "bias",
                                               "init_lora_weights",
                                               "exclude_modules",
                                               "layers_to_transform",
                                               "layers_pattern",
                                               "rank_pattern",
                                               "alpha_pattern",
                                               "use_dora",
                                               "modules_to_save"};
  return fields;
}

/// Whether a field's value asks for nothing.
bool is_neutral(const Json& value) {
  return is_missing(value) || value == false || ((value.is_array() || value.is_object()) && value.empty());
}

/// The fields of one file, each checked as it is read.
class Fields {
 public:
  Fields(const Json& config, const std::string& source) : config_(config), source_(source) {}

  std::int64_t integer(const char* field, std::int64_t otherwise) const {
    return config_.contains(field) ? as_integer(config_[field], field) : otherwise;
  }
  double number(const char* field, double otherwise) const {
    return config_.contains(field) ? as_number(config_[field], field) : otherwise;
  }
  bool boolean(const char* field) const {
    if (!given(field)) return false;
    const Json& value = config_[field];
    if (!value.is_boolean()) refuse(field, "true or false", value);
    return value.get<bool>();
  }
  std::vector<std::string> words(const char* field) const {
    if (!given(field)) return {};
    const Json& value = config_[field];
    if (!value.is_array() || value.empty() ||
        !std::all_of(value.begin(), value.end(), [](const Json& item) { return item.is_string(); }))
      refuse(field, "a list of names", value);
    return value.get<std::vector<std::string>>();
  }
  /// A list of names, or one text that is a regular expression.
  ModuleSelection selection(const char* field) const {
    if (!given(field) || !config_[field].is_string()) return words(field);
    if (config_[field] == "") refuse(field, "a list of names or a regular expression", config_[field]);
    return ModuleSelection::from_text(config_[field].get<std::string>());
  }
  std::vector<std::string> word_or_words(const char* field) const {
    if (given(field) && config_[field].is_string()) return {config_[field].get<std::string>()};
    return words(field);
  }
  std::vector<std::int64_t> integers(const char* field) const {
    if (!given(field)) return {};
    const Json& value = config_[field];
    if (!value.is_array()) return {as_integer(value, field)};
    std::vector<std::int64_t> numbers;
    for (const Json& item : value) numbers.push_back(as_integer(item, field));
    return numbers;
  }
  template <typename Value>
  std::vector<std::pair<std::string, Value>> pattern(const char* field) const {
    if (!given(field)) return {};
    const Json& value = config_[field];
    if (!value.is_object()) refuse(field, "an object of names and numbers", value);
    std::vector<std::pair<std::string, Value>> patterns;
    for (const auto& [key, number] : value.items()) {
      const std::string name = std::string(field) + ": " + key;
      if constexpr (std::is_integral_v<Value>) {
        patterns.emplace_back(key, as_integer(number, name.c_str()));
      } else {
        patterns.emplace_back(key, as_number(number, name.c_str()));
      }
    }
    return patterns;
  }
  LoraInit init() const {
    const char* field = "init_lora_weights";
    if (!given(field)) return LoraInit::kUniform;
    const Json& value = config_[field];
    for (const LoraInit known :
         {LoraInit::kUniform, LoraInit::kNone, LoraInit::kGaussian, LoraInit::kPissa, LoraInit::kOlora}) {
      const bool is_word = value.is_string() && value.get<std::string>() == init_word(known) &&
                           known != LoraInit::kUniform && known != LoraInit::kNone;
      if (is_word || (value == true && known == LoraInit::kUniform) ||
          (value == false && known == LoraInit::kNone))
        return known;
    }
    // What is in the file replaces what these begin with, and they leave the base weights as they are.
    if (value == "eva" || value == "orthogonal") return LoraInit::kUniform;
    refuse(field, "true, false, \"gaussian\", \"pissa\" or \"olora\"", value);
  }
  LoraBias bias() const {
    if (!given("bias")) return LoraBias::kNone;
    for (const LoraBias known : {LoraBias::kNone, LoraBias::kAll, LoraBias::kLoraOnly}) {
      if (config_["bias"] == bias_word(known)) return known;
    }
    refuse("bias", "\"none\", \"all\" or \"lora_only\"", config_["bias"]);
  }

 private:
  bool given(const char* field) const {
    const auto found = config_.find(field);
    return found != config_.end() && !found->is_null() &&
           !((found->is_array() || found->is_object()) && found->empty());
  }
  [[noreturn]] void refuse(const char* field, const char* expected, const Json& value) const {
    fail("{}: {}: expected {}, found {}", source_, field, expected, json_text(value));
  }
  std::int64_t as_integer(const Json& value, const char* field) const {
    if (!value.is_number_integer()) refuse(field, "an integer", value);
    return value.get<std::int64_t>();
  }
  double as_number(const Json& value, const char* field) const {
    const double number = value.is_number() ? value.get<double>() : std::nan("");
    if (!std::isfinite(number)) refuse(field, "a number", value);
    return number;
  }

  const Json& config_;
  const std::string& source_;
};

/// A number as Python would write it: without a point where it is whole.
json number_of(double value) {
  const bool whole = value == std::nearbyint(value) && std::abs(value) < 1e15;
  return whole ? json(static_cast<std::int64_t>(value)) : json(value);
}

json list_or_null(const std::vector<std::string>& items) { return items.empty() ? json() : json(items); }

}  // namespace

LoraOptions parse_adapter_config(const Json& config, const std::string& source) {
  if (!config.is_object()) {
    fail("{}: expected a JSON object, found {}", source, config.type_name());
  }
  for (const auto& [field, value] : config.items()) {
    if (read_fields().count(field) == 0 && descriptive_fields().count(field) == 0 && !is_neutral(value)) {
      fail("{}: {}: not supported, found {}", source, field, json_text(value));
    }
  }
  if (config.value("peft_type", Json()) != "LORA") {
    fail("{}: peft_type: expected \"LORA\", found {}", source, json_text(config.value("peft_type", Json())));
  }
  const Fields fields(config, source);
  LoraOptions options;
  options.r = fields.integer("r", options.r);
  options.lora_alpha = fields.number("lora_alpha", options.lora_alpha);
  options.lora_dropout = fields.number("lora_dropout", options.lora_dropout);
  options.use_rslora = fields.boolean("use_rslora");
  options.use_dora = fields.boolean("use_dora");
  options.target_modules = fields.selection("target_modules");
  options.exclude_modules = fields.selection("exclude_modules");
  options.layers_to_transform = fields.integers("layers_to_transform");
  options.layers_pattern = fields.word_or_words("layers_pattern");
  options.rank_pattern = fields.pattern<std::int64_t>("rank_pattern");
  options.alpha_pattern = fields.pattern<double>("alpha_pattern");
  options.modules_to_save = fields.words("modules_to_save");
  options.bias = fields.bias();
  options.init = fields.init();
  options.check(source);
  return options;
}

json adapter_config_json(const LoraOptions& options, const AdapterSelection& selection,
                         const AdapterDescription& description) {
  json config = {{"peft_type", "LORA"},
                 {"peft_version", "0.21.2"},  // whose fields these are
                 {"r", options.r},
                 {"lora_alpha", number_of(options.lora_alpha)},
                 {"lora_dropout", options.lora_dropout},
                 {"target_modules", selection.targets},
                 {"use_rslora", options.use_rslora},
                 {"use_dora", options.use_dora},
                 {"bias", bias_word(options.bias)},
                 {"inference_mode", true},
                 {"modules_to_save", list_or_null(options.modules_to_save)},
                 {"alpha_pattern", json::object()},
                 {"rank_pattern", json::object()},
                 {"loftq_config", json::object()},
                 {"megatron_core", "megatron.core"},
                 {"qalora_group_size", 16}};
  const bool is_flag = options.init == LoraInit::kUniform || options.init == LoraInit::kNone;
  config["init_lora_weights"] =
      is_flag ? json(options.init == LoraInit::kUniform) : json(init_word(options.init));
  for (const auto& [module, rank] : selection.ranks) config["rank_pattern"][module] = rank;
  for (const auto& [module, alpha] : selection.alphas) config["alpha_pattern"][module] = number_of(alpha);
  for (const char* field : {"ensure_weight_tying", "fan_in_fan_out", "lora_bias", "use_qalora"}) {
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
  if (!description.task_type.empty()) config["task_type"] = description.task_type;
  if (!description.base_model_class.empty()) {
    config["auto_mapping"] = {{"base_model_class", description.base_model_class},
                              {"parent_library", description.parent_library}};
  }
  return config;
}

}  // namespace tessera::lora
