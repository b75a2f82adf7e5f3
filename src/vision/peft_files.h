#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/safetensors.h"
#include "vision/lora.h"
#include "vision/module_names.h"

namespace tessera::vision {

/// What an adapter file says besides the adapter.
struct AdapterDescription {
  ModuleNaming naming = ModuleNaming::kCurrent;
  std::string base_model_name_or_path;  ///< empty: null
  std::string base_model_class;         ///< "Dinov2Model", for PEFT's auto classes; empty: no auto_mapping
  std::string parent_library;           ///< the Python module of that class
};

/// Writes adapter_config.json and adapter_model.safetensors as PEFT 0.21 does. With the current naming, PEFT
/// loads them onto a model of transformers 5; with the legacy one, onto older transformers. A new folder
/// appears with both files in it or, where the writing fails in between, without its adapter_config.json.
/// @param options  those that inject_lora was called with
/// @throws Error naming the file that can't be written, or the adapted module that has no name in that naming
void save_adapter(const std::filesystem::path& folder, torch::nn::Module& root, const LoraOptions& options,
                  const AdapterDescription& description = {});

/// Reads a folder in either naming. Adapters are injected where there are none; else r, scaling and the
/// adapted modules must be those of the file. (An adapter's dropout then stays as it is.)
/// @throws Error naming file and field where the adapter asks for something that isn't supported (DoRA,
/// biases,
///         modules_to_save, rank or alpha patterns, a regular expression, …), or listing the tensors that are
///         missing, unexpected or of another shape
LoraOptions load_adapter(const std::filesystem::path& folder, torch::nn::Module& root);

/// The same from the content of the two files.
LoraOptions load_adapter(const nlohmann::json& adapter_config, const TensorMap& tensors,
                         torch::nn::Module& root, const std::string& source);

/// Options from the content of an adapter_config.json. Absent fields have PEFT's defaults.
LoraOptions parse_adapter_config(const nlohmann::json& adapter_config, const std::string& source);

/// The adapter's parameters under PEFT's keys ("base_model.model.….lora_A.weight").
TensorMap adapter_tensors(torch::nn::Module& root, ModuleNaming naming);

}  // namespace tessera::vision
