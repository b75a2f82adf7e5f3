#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "lora/lora_config.h"
#include "lora/module_names.h"

namespace tessera::lora {

/// Low-rank adaptation (Hu et al. 2021) with PEFT's names and meanings, and with PEFT's defaults: what its
/// file means where it leaves a field out. Those of a run are LoraConfig's.
struct LoraOptions {
  std::int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  /// Suffixes of module names, whole segments: "query" is every module called query. Or the one word
  /// "all-linear", or a regular expression.
  ModuleSelection target_modules;
  bool use_rslora = false;

  ModuleSelection exclude_modules;                ///< what is left out of those
  std::vector<std::int64_t> layers_to_transform;  ///< numbers of the layers to adapt; empty: all
  std::vector<std::string> layers_pattern;        ///< what a layer's number stands behind; empty: anything
  /// Rank and α of the modules whose path ends in what the expression says; the first that matches counts.
  std::vector<std::pair<std::string, std::int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  bool use_dora = false;  ///< a magnitude a row beside the low-rank direction (Liu et al. 2024)
  LoraBias bias = LoraBias::kNone;
  std::vector<std::string> modules_to_save;  ///< ends of the paths of modules that train whole
  LoraInit init = LoraInit::kUniform;
  /// Of an adapter from a file: the names that its lists and expressions mean. Such a list may also hold what
  /// means no module, as in PEFT. Empty: somebody wrote them down, in any of a module's names, and is told of
  /// one that means nothing.
  std::optional<NamesInFile> in_file;

  static LoraOptions from_config(const LoraConfig& config);
  LoraConfig to_config() const;  ///< with no `adapter`

  /// s = α/r, with use_rslora α/√r, where no pattern says otherwise.
  double scaling() const;
  /// @param names  of the architecture that the module is of
  std::int64_t rank_of(const std::string& module, const ModuleNames& names) const;
  double alpha_of(const std::string& module, const ModuleNames& names) const;
  double scaling_of(const std::string& module, const ModuleNames& names) const;
  /// Whether every adapted module has the same rank and scaling.
  bool is_uniform() const { return rank_pattern.empty() && alpha_pattern.empty(); }

  /// @throws Error naming the field that is out of range
  void check(const std::string& source) const;
};

/// Whether the adapter's beginning is taken out of the base weights, which are then the rest.
constexpr bool takes_base_weights_apart(LoraInit init) {
  return init == LoraInit::kPissa || init == LoraInit::kOlora;
}

/// PEFT's words: "true", "false", "gaussian", "pissa", "olora"; "none", "all", "lora_only".
const char* init_word(LoraInit init);
const char* bias_word(LoraBias bias);

}  // namespace tessera::lora
