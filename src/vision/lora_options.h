#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/config.h"

namespace tessera::vision {

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

/// Low-rank adaptation (Hu et al. 2021) with PEFT's names and meanings.
struct LoraOptions {
  std::int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  /// Suffixes of module names, whole segments: "query" is every module called query. Or the one word
  /// "all-linear".
  std::vector<std::string> target_modules;
  bool use_rslora = false;

  std::string target_pattern;  ///< in place of target_modules: a regular expression for whole paths
  std::vector<std::string> exclude_modules;       ///< suffixes of what is left out
  std::string exclude_pattern;                    ///< in place of exclude_modules
  std::vector<std::int64_t> layers_to_transform;  ///< numbers of the layers to adapt; empty: all
  std::vector<std::string> layers_pattern;        ///< what a layer's number stands behind; empty: anything
  /// Rank and α of the modules whose path ends in what the expression says; the first that matches counts.
  std::vector<std::pair<std::string, std::int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  bool use_dora = false;  ///< a magnitude a row beside the low-rank direction (Liu et al. 2024)
  LoraBias bias = LoraBias::kNone;
  std::vector<std::string> modules_to_save;  ///< ends of the paths of modules that train whole
  LoraInit init = LoraInit::kUniform;

  static LoraOptions from_config(const LoraConfig& config);

  /// s = α/r, with use_rslora α/√r, where no pattern says otherwise.
  double scaling() const;
  std::int64_t rank_of(const std::string& module) const;
  double alpha_of(const std::string& module) const;
  double scaling_of(const std::string& module) const;
  /// Whether every adapted module has the same rank and scaling.
  bool is_uniform() const { return rank_pattern.empty() && alpha_pattern.empty(); }

  /// @throws Error naming the field that is out of range
  void check(const std::string& source) const;
};

/// PEFT's words: "true", "false", "gaussian", "pissa", "olora"; "none", "all", "lora_only".
const char* init_word(LoraInit init);
const char* bias_word(LoraBias bias);

}  // namespace tessera::vision
