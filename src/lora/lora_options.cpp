#include "lora/lora_options.h"

#include <cmath>

#include "core/error.h"
#include "lora/module_pattern.h"

namespace tessera::lora {

namespace {

/// Of the first pattern that names the module.
template <typename Value>
Value value_of(const std::vector<std::pair<std::string, Value>>& patterns, const char* field,
               const std::vector<std::string>& names_of_module, Value otherwise) {
  for (const auto& [key, value] : patterns) {
    if (pattern_names(key, field, names_of_module)) return value;
  }
  return otherwise;
}

void check_rank(std::int64_t r, const std::string& field, const std::string& source) {
  if (r < 1 || r > 65536) fail("{}: {}: expected 1 to 65536, found {}", source, field, r);
}

}  // namespace

ModuleSelection ModuleSelection::from_text(std::string text) {
  ModuleSelection selection;
  if (text == kAllLinear) {
    selection.names = {std::move(text)};
  } else {
    selection.pattern = std::move(text);
  }
  return selection;
}

LoraOptions LoraOptions::from_config(const LoraConfig& config) {
  return {.r = config.r,
          .lora_alpha = config.lora_alpha,
          .lora_dropout = config.lora_dropout,
          .target_modules = config.target_modules,
          .use_rslora = config.use_rslora,
          .exclude_modules = config.exclude_modules,
          .layers_to_transform = config.layers_to_transform,
          .layers_pattern = config.layers_pattern,
          .rank_pattern = config.rank_pattern,
          .alpha_pattern = config.alpha_pattern,
          .use_dora = config.use_dora,
          .bias = config.bias,
          .modules_to_save = config.modules_to_save,
          .init = config.init_lora_weights};
}

LoraConfig LoraOptions::to_config() const {
  return {.r = r,
          .lora_alpha = lora_alpha,
          .lora_dropout = lora_dropout,
          .target_modules = target_modules,
          .exclude_modules = exclude_modules,
          .layers_to_transform = layers_to_transform,
          .layers_pattern = layers_pattern,
          .rank_pattern = rank_pattern,
          .alpha_pattern = alpha_pattern,
          .use_rslora = use_rslora,
          .use_dora = use_dora,
          .bias = bias,
          .modules_to_save = modules_to_save,
          .init_lora_weights = init};
}

double LoraOptions::scaling() const {
  const auto rank = static_cast<double>(r);
  return lora_alpha / (use_rslora ? std::sqrt(rank) : rank);
}

std::int64_t LoraOptions::rank_of(const std::string& module, const ModuleNames& names) const {
  return value_of(rank_pattern, "rank_pattern", names.names_of(module, in_file), r);
}

double LoraOptions::alpha_of(const std::string& module, const ModuleNames& names) const {
  return value_of(alpha_pattern, "alpha_pattern", names.names_of(module, in_file), lora_alpha);
}

double LoraOptions::scaling_of(const std::string& module, const ModuleNames& names) const {
  const auto rank = static_cast<double>(rank_of(module, names));
  return alpha_of(module, names) / (use_rslora ? std::sqrt(rank) : rank);
}

void LoraOptions::check(const std::string& source) const {
  check_rank(r, "r", source);
  for (const auto& [key, rank] : rank_pattern) check_rank(rank, "rank_pattern: " + key, source);
  if (!std::isfinite(lora_alpha))
    fail("{}: lora_alpha: expected a finite number, found {}", source, lora_alpha);
  for (const auto& [key, alpha] : alpha_pattern) {
    if (!std::isfinite(alpha))
      fail("{}: alpha_pattern: {}: expected a finite number, found {}", source, key, alpha);
  }
  if (!(lora_dropout >= 0 && lora_dropout < 1))
    fail("{}: lora_dropout: expected at least 0 and less than 1, found {}", source, lora_dropout);
  if (target_modules.empty())
    fail("{}: target_modules: expected names of modules, a regular expression or \"all-linear\", found none",
         source);
  if (!layers_pattern.empty() && layers_to_transform.empty())
    fail("{}: layers_pattern: there is no layers_to_transform that it would belong to", source);
  if (!layers_to_transform.empty() && !target_modules.pattern.empty())
    fail("{}: layers_to_transform: a regular expression as target_modules says itself which layers it means",
         source);
}

const char* init_word(LoraInit init) {
  switch (init) {
    case LoraInit::kUniform:
      return "true";
    case LoraInit::kNone:
      return "false";
    case LoraInit::kGaussian:
      return "gaussian";
    case LoraInit::kPissa:
      return "pissa";
    case LoraInit::kOlora:
      return "olora";
  }
  return "unknown";
}

const char* bias_word(LoraBias bias) {
  switch (bias) {
    case LoraBias::kNone:
      return "none";
    case LoraBias::kAll:
      return "all";
    case LoraBias::kLoraOnly:
      return "lora_only";
  }
  return "unknown";
}

}  // namespace tessera::lora
