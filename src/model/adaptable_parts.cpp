#include "model/adaptable_parts.h"

#include <fmt/ranges.h>

#include <optional>
#include <set>

#include "config/config_table.h"
#include "core/utf8.h"
#include "fusion/fusion_tower.h"
#include "language/language_model.h"
#include "lora/lora_targets.h"
#include "lora/peft_config.h"
#include "model/stage1_model.h"
#include "vision/encoder.h"

namespace tessera::model {

namespace {

const lora::LoraOptions* address(const std::optional<lora::LoraOptions>& options) {
  return options ? &*options : nullptr;
}

lora::AdapterDescription describe_encoder(const Stage1Model& model, const Config&,
                                          const std::filesystem::path& backbone) {
  const vision::HuggingFaceClass encoder = model.vision().hugging_face_class();
  return {.base_model_name_or_path = path_to_utf8(backbone),
          .base_model_class = encoder.name,
          .parent_library = encoder.module};
}

lora::AdapterDescription describe_language(const Stage1Model&, const Config& config,
                                           const std::filesystem::path&) {
  // Where it was trained from the start it is nowhere but in language_model/ beside the adapter's folder.
  const bool is_named = config.language.weights != "random" && config.init_from.empty();
  return {
      .base_model_name_or_path =
          is_named ? path_to_utf8(std::filesystem::absolute(config.language.weights).lexically_normal()) : "",
      .task_type = "CAUSAL_LM"};
}

/// There is no class of it in Python.
lora::AdapterDescription describe_fusion(const Stage1Model&, const Config&, const std::filesystem::path&) {
  return {};
}

void note_part(const AdaptablePart& part, const Config& config, const Stage1Model& model,
               AdapterNotes& notes) {
  const lora::LoraOptions* options = part.options(model);
  const std::string& adapter = part.lora.of(config).adapter;
  Config defaults = config;
  part.lora.of(defaults) = part.lora.of(Config());
  std::set<std::string> chosen;
  for (const auto& [path, wanted, standard] : differences(config, defaults)) {
    chosen.insert(path);
    if (options == nullptr)
      notes.unused.push_back(
          fmt::format("{}: {} does not count: {} is not lora", path, wanted, part.trainable_key));
  }
  if (adapter.empty() || options == nullptr) return;
  Config used = config;
  part.lora.of(used) = options->to_config();
  const std::string section = std::string(part.section) + ".";
  const std::set<std::string> selecting = {section + "target_modules", section + "exclude_modules",
                                           section + "layers_to_transform", section + "layers_pattern"};
  lora::AdaptableModule& module = part.module(model);
  std::set<std::string> adapted;
  for (const lora::NamedLinear& item : lora::adapted_linears(module)) adapted.insert(item.name);
  const bool same_modules =
      lora::means_just(module, lora::LoraOptions::from_config(part.lora.of(config)), adapted);
  std::vector<std::string> instead;
  for (const auto& [path, wanted, says] : differences(config, used)) {
    if (path == section + "adapter" || (same_modules && selecting.count(path) != 0)) continue;
    if (chosen.count(path) == 0) {
      instead.push_back(fmt::format("{}: {}", path.substr(section.size()), says));
    } else {
      notes.unused.push_back(
          fmt::format("{}: {} does not count: the adapter {} says {}", path, wanted, adapter, says));
    }
  }
  if (!instead.empty()) {
    notes.remarks.push_back(
        fmt::format("adapter {}, in place of defaults: {}", adapter, fmt::join(instead, ", ")));
  }
}

}  // namespace

const std::array<AdaptablePart, 3>& adaptable_parts() {
  static const std::array<AdaptablePart, 3> parts = {{
      {.name = "image encoder",
       .section = "lora",
       .trainable_key = "vision.trainable",
       .folder = "adapter",
       .lora = {[](Config& config) -> lora::LoraConfig& { return config.lora; }},
       .trainable = {[](Config& config) -> lora::TrainableChoice& { return config.vision.trainable; }},
       .module = [](const Stage1Model& model) -> lora::AdaptableModule& { return model.vision(); },
       .options = [](const Stage1Model& model) { return address(model.lora()); },
       .description = describe_encoder},
      {.name = "language model",
       .section = "language.lora",
       .trainable_key = "language.trainable",
       .folder = "language_adapter",
       .lora = {[](Config& config) -> lora::LoraConfig& { return config.language.lora; }},
       .trainable = {[](Config& config) -> lora::TrainableChoice& { return config.language.trainable; }},
       .module = [](const Stage1Model& model) -> lora::AdaptableModule& { return *model.language(); },
       .options = [](const Stage1Model& model) { return address(model.language_lora()); },
       .description = describe_language},
      {.name = "fusion",
       .section = "fusion.lora",
       .trainable_key = "fusion.trainable",
       .folder = "fusion_adapter",
       .lora = {[](Config& config) -> lora::LoraConfig& { return config.fusion.lora; }},
       .trainable = {[](Config& config) -> lora::TrainableChoice& { return config.fusion.trainable; }},
       .module = [](const Stage1Model& model) -> lora::AdaptableModule& { return *model.fusion(); },
       .options = [](const Stage1Model& model) { return address(model.fusion_lora()); },
       .description = describe_fusion},
  }};
  return parts;
}

AdapterNotes notes_on_adapters(const Config& config, const Stage1Model& model) {
  AdapterNotes notes;
  for (const AdaptablePart& part : adaptable_parts()) note_part(part, config, model, notes);
  const auto& [encoder, language, fusion] = adaptable_parts();
  std::vector<std::string> in_both_phases;
  for (const AdaptablePart* part : {&language, &fusion}) {
    if (part->options(model) != nullptr) in_both_phases.emplace_back(part->name);
  }
  if (!in_both_phases.empty()) {
    notes.remarks.push_back(
        fmt::format("LoRA adapters of the {} train throughout; phases are the image encoder's",
                    fmt::join(in_both_phases, " and the ")));
  }
  return notes;
}

}  // namespace tessera::model
