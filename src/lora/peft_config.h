#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

#include "lora/lora_options.h"
#include "lora/module_names.h"

namespace tessera::lora {

/// What an adapter file says besides the adapter.
struct AdapterDescription {
  ModuleNaming naming = ModuleNaming::kCurrent;
  std::string base_model_name_or_path;  ///< empty: null
  std::string base_model_class;         ///< "Dinov2Model", for PEFT's auto classes; empty: no auto_mapping
  std::string parent_library;           ///< the Python module of that class
  std::string task_type;                ///< "CAUSAL_LM", … ; empty: null
};

/// Options from the content of an adapter_config.json. Absent fields have PEFT's defaults. The patterns'
/// order is the file's where the object keeps it (nlohmann::ordered_json).
/// @throws Error naming file and field where a value has a wrong type or is out of range, or asks for
/// something
///         that isn't supported (another peft_type, a bias of B, fan_in_fan_out, other initialisers that
///         change the base weights, …)
LoraOptions parse_adapter_config(const nlohmann::ordered_json& adapter_config, const std::string& source);

/// Every field of PEFT 0.21's LoraConfig, as its save_pretrained writes them. target_modules, rank_pattern
/// and alpha_pattern name the adapted modules one by one where no shorter list means the same.
/// @param options  as they were at injection; of their selection what `targets` and the patterns say is
/// written
/// @param targets  the shortest list that means the adapted modules, in the description's naming
/// @param ranks, alphas  of the modules that differ from r and lora_alpha
struct AdapterSelection {
  std::vector<std::string> targets;
  std::vector<std::pair<std::string, std::int64_t>> ranks;
  std::vector<std::pair<std::string, double>> alphas;
};
nlohmann::json adapter_config_json(const LoraOptions& options, const AdapterSelection& selection,
                                   const AdapterDescription& description);

}  // namespace tessera::lora
