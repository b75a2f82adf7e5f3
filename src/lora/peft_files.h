#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/safetensors.h"
#include "lora/lora.h"
#include "lora/module_names.h"
#include "lora/peft_config.h"

namespace tessera::lora {

/// The two files of a PEFT folder.
inline constexpr const char* kAdapterConfigFile = "adapter_config.json";
inline constexpr const char* kAdapterWeightsFile = "adapter_model.safetensors";

/// What they hold, read and not yet put into a model.
struct AdapterFiles {
  /// @param names  of the architecture that the adapter is of; has to outlive the result
  /// @throws Error as parse_adapter_config does
  static AdapterFiles of(nlohmann::ordered_json config, TensorMap tensors, std::string source,
                         const ModuleNames& names);

  LoraOptions options;            ///< with the names that the tensors' keys say
  nlohmann::ordered_json config;  ///< as it stands in the file
  TensorMap tensors;              ///< under the file's keys
  std::string source;             ///< names the folder in messages
  const ModuleNames* names;       ///< of the architecture
};

/// adapter_model.safetensors or, where that isn't there, adapter_model.bin.
std::filesystem::path adapter_weights_file(const std::filesystem::path& folder);

/// @throws Error naming the file that is missing or broken, or the field that asks for what isn't supported
AdapterFiles read_adapter(const std::filesystem::path& folder, const ModuleNames& names);

/// Whether one of the keys is of this architecture.
bool is_of(const AdapterFiles& files, const ModuleNames& names);

/// An adapter's options for a model: as they are, or where somebody has renamed the tensors and not what
/// configures them, with names that fit both.
/// @throws Error where none of the keys is of the model's architecture
LoraOptions options_for(AdaptableModule& root, const AdapterFiles& files);

/// For the end of a message about an adapter that doesn't fit: what can be done where the adapter is of a
/// class with a head (Dinov2ForImageClassification); empty where it isn't.
std::string hint_about_a_head(const TensorMap& tensors, const ModuleNames& names);

/// Writes adapter_config.json and adapter_model.safetensors as PEFT 0.21 does. With the current naming, PEFT
/// loads them onto a model of transformers 5; with the legacy one, onto older transformers (which SwiGLU's
/// two halves can't have apart: joined_modules.h). A new folder appears with both files in it or, where the
/// writing fails in between, without its adapter_config.json.
/// @param options  those that inject_lora was called with
/// @throws Error naming the file that can't be written, or the adapted module that has no name in that naming
void save_adapter(const std::filesystem::path& folder, AdaptableModule& root, const LoraOptions& options,
                  const AdapterDescription& description = {});

/// Reads a folder in either naming, with a wrapper's prefix or without. Adapters are injected where there are
/// none; else r, scaling and the adapted modules must be those of the file. (An adapter's dropout then stays
/// as it is.)
/// @throws Error naming file and field where the adapter asks for something that isn't supported
///         (parse_adapter_config), or listing the tensors that are missing, unexpected or of another shape
LoraOptions load_adapter(const std::filesystem::path& folder, AdaptableModule& root);

/// The same from what the two files hold.
LoraOptions load_adapter(const AdapterFiles& files, AdaptableModule& root);
LoraOptions load_adapter(const nlohmann::ordered_json& adapter_config, const TensorMap& tensors,
                         AdaptableModule& root, const std::string& source);

/// Copies a file's tensors into the parameters that are in the tree: adapters that compute what the file's
/// would, and what belongs to them of the base model.
void copy_adapter(const LoraOptions& options, const TensorMap& tensors, AdaptableModule& root,
                  const std::string& source);

/// The adapter's parameters under PEFT's keys ("base_model.model.….lora_A.weight").
TensorMap adapter_tensors(AdaptableModule& root, const LoraOptions& options, ModuleNaming naming);

}  // namespace tessera::lora
