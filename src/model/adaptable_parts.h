#pragma once

#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "config/config.h"

namespace tessera::lora {
class AdaptableModule;
struct AdapterDescription;
struct LoraOptions;
}  // namespace tessera::lora

namespace tessera::model {

class Stage1Model;

/// A member of a configuration, of a constant one too.
template <typename T>
struct ConfigMember {
  T& (*access)(Config&);

  T& of(Config& config) const { return access(config); }
  /// `access` only forms a reference.
  const T& of(const Config& config) const { return access(const_cast<Config&>(config)); }
};

/// A part of the model that LoRA can be put on by name: where a configuration says so, and where a checkpoint
/// has its adapters.
struct AdaptablePart {
  const char* name;           ///< in messages
  const char* section;        ///< of its adapters in a configuration
  const char* trainable_key;  ///< what says how it trains
  const char* folder;         ///< PEFT's two files in a checkpoint
  ConfigMember<lora::LoraConfig> lora;
  ConfigMember<lora::TrainableChoice> trainable;
  lora::AdaptableModule& (*module)(const Stage1Model&);
  const lora::LoraOptions* (*options)(const Stage1Model&);  ///< null: it has no adapters
  /// What the adapter's files say of the model that it is for.
  /// @param backbone  where the frozen backbone lies
  lora::AdapterDescription (*description)(const Stage1Model&, const Config&,
                                          const std::filesystem::path& backbone);

  bool is_adapted(const Config& config) const { return trainable.of(config) == lora::TrainableChoice::kLora; }
};

/// The image encoder, the language model and the fusion, in this order.
const std::array<AdaptablePart, 3>& adaptable_parts();

/// What a run should say of its adapters, of all parts.
struct AdapterNotes {
  /// A line a key that isn't at its default and counts for nothing: because of NAME.lora.adapter's own
  /// options, or because the part has no adapters.
  std::vector<std::string> unused;
  /// What an adapter has in place of defaults; which adapters train in both phases.
  std::vector<std::string> remarks;
};
AdapterNotes notes_on_adapters(const Config& config, const Stage1Model& model);

}  // namespace tessera::model
