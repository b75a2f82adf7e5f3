#include "lora/lora_config.h"

#include "core/config_rows.h"

namespace tessera::lora {

namespace {

/// PEFT's target_modules and the like.
ConfigKey modules(std::string path, ModuleSelection& member, std::string meaning) {
  return {std::move(path), NamesOrPatternValue{&member.names, &member.pattern, kAllLinear},
          std::move(meaning)};
}

}  // namespace

std::vector<std::pair<std::string, TrainableChoice>> trainable_words() {
  return {
      {"none", TrainableChoice::kNone}, {"lora", TrainableChoice::kLora}, {"full", TrainableChoice::kFull}};
}

ConfigRows config_rows(LoraConfig& lora, const std::string& of) {
  using namespace config_kinds;
  return rows(
      "Low-rank adapters of " + of + "; names as in PEFT",
      {TESSERA_KEY(integer, lora.r, {1, 1 << 14}, "Rank of the adapters"),
       TESSERA_KEY(number, lora.lora_alpha, kPositive, "An adapter's product is scaled by lora_alpha / r"),
       TESSERA_KEY(number, lora.lora_dropout, kBelowOne, "Dropout on an adapter's input"),
       TESSERA_KEY(
           modules, lora.target_modules,
           "The Linear modules to adapt: ends of their names, an expression for whole names, or all-linear"),
       TESSERA_KEY(modules, lora.exclude_modules,
                   "What is left out of them: ends of names, or an expression"),
       TESSERA_KEY(integer_list, lora.layers_to_transform, {0, 1 << 14},
                   "Numbers of the layers to adapt, from 0; empty: all"),
       TESSERA_KEY(text_list, lora.layers_pattern, false,
                   "What a layer's number stands behind, such as layer; empty: anything"),
       TESSERA_KEY(named<std::int64_t>, lora.rank_pattern, IntegerRange{1, 1 << 14},
                   "Ranks of modules whose names end in an expression; the first that matches counts"),
       TESSERA_KEY(named<double>, lora.alpha_pattern, kPositive, "The same for lora_alpha"),
       TESSERA_KEY(words<LoraInit>, lora.init_lora_weights,
                   {{"true", LoraInit::kUniform},
                    {"false", LoraInit::kNone},
                    {"gaussian", LoraInit::kGaussian},
                    {"pissa", LoraInit::kPissa},
                    {"olora", LoraInit::kOlora}},
                   "How adapters begin; true: without any effect; pissa and olora, of the encoder alone, "
                   "take them out "
                   "of trained weights"),
       TESSERA_KEY(words<LoraBias>, lora.bias,
                   {{"none", LoraBias::kNone}, {"all", LoraBias::kAll}, {"lora_only", LoraBias::kLoraOnly}},
                   "Biases of the base model that train and are saved with the adapter; lora_only: of "
                   "adapted modules"),
       TESSERA_KEY(text_list, lora.modules_to_save, false,
                   "Ends of the names of modules that train whole and are saved with the adapter"),
       TESSERA_KEY(boolean, lora.use_dora, "DoRA: a magnitude a row beside the low-rank direction"),
       TESSERA_KEY(boolean, lora.use_rslora, "Scale by lora_alpha / sqrt(r) instead"),
       TESSERA_KEY(
           text, lora.adapter, TextKind::kInputPath,
           "PEFT folder whose adapters the run starts from, with their own options in place of those here; "
           "empty: fresh ones")});
}

}  // namespace tessera::lora
