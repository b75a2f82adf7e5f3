#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

namespace tessera {
struct ConfigRows;
}

namespace tessera::lora {

/// What of a model trains: nothing, adapters, or all of it.
enum class TrainableChoice { kNone, kLora, kFull };

/// Their words in a configuration.
std::vector<std::pair<std::string, TrainableChoice>> trainable_words();

/// How an adapter begins (PEFT's init_lora_weights).
enum class LoraInit {
  kUniform,  ///< true: A uniform in ±1/√in (kaiming_uniform with a = √5), B zero: nothing changes at first
  kNone,     ///< false: B is random too, uniform in ±1/√r; for tests
  kGaussian,  ///< A normal with deviation 1/r, B zero
  kPissa,     ///< the base weight's greatest singular values, taken out of it (Meng et al. 2024)
  kOlora,     ///< the first columns of its QR factorisation, taken out of it (Büyükakyüz 2024)
};

/// Which biases of the base model train and are saved with the adapter.
enum class LoraBias { kNone, kAll, kLoraOnly };

/// PEFT's word for every Linear.
inline constexpr const char* kAllLinear = "all-linear";

/// What PEFT's target_modules and exclude_modules may say: names of modules, or an expression.
struct ModuleSelection {
  std::vector<std::string> names;  ///< ends of paths, whole segments; or the one word "all-linear"
  std::string pattern;             ///< in place of names: a regular expression for whole paths

  ModuleSelection() = default;
  ModuleSelection(std::vector<std::string> some) : names(std::move(some)) {}
  ModuleSelection(std::initializer_list<std::string> some) : names(some) {}
  /// PEFT's one text: the word "all-linear", or an expression.
  static ModuleSelection from_text(std::string text);

  bool is_all_linear() const { return names.size() == 1 && names.front() == kAllLinear; }
  bool empty() const { return names.empty() && pattern.empty(); }
  bool operator==(const ModuleSelection&) const = default;
};

/// PEFT's fields under PEFT's names; what they mean stands at LoraOptions. The default targets are the image
/// encoder's; other parts say theirs.
struct LoraConfig {
  std::int64_t r = 16;
  double lora_alpha = 32;
  double lora_dropout = 0.1;
  ModuleSelection target_modules = {"query", "value"};
  ModuleSelection exclude_modules;
  std::vector<std::int64_t> layers_to_transform;
  std::vector<std::string> layers_pattern;
  std::vector<std::pair<std::string, std::int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  bool use_rslora = false;
  bool use_dora = false;
  LoraBias bias = LoraBias::kNone;
  std::vector<std::string> modules_to_save;
  LoraInit init_lora_weights = LoraInit::kUniform;
  std::string adapter;  ///< PEFT folder to start from; empty: fresh adapters

  bool operator==(const LoraConfig&) const = default;
};

/// A section's keys (core/config_rows.h).
/// @param of  the part that is adapted, for the section's meaning
ConfigRows config_rows(LoraConfig& lora, const std::string& of = "the encoder (vision.trainable: lora)");

}  // namespace tessera::lora
