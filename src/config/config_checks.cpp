#include <fmt/ranges.h>

#include <string>
#include <vector>

#include "config/config.h"
#include "config/config_reader.h"
#include "core/error.h"
#include "losses/loss_abilities.h"

namespace tessera {
namespace {

/// Points at a key, by preference at the one that the user gave.
class Checks {
 public:
  explicit Checks(const ConfigReader& reader) : reader_(reader) {}

  template <typename... Args>
  void require(bool holds, const std::string& key, fmt::format_string<Args...> format, Args&&... args) const {
    if (holds) return;
    throw ConfigError(reader_.where(key) + ": " + fmt::format(format, std::forward<Args>(args)...));
  }

  void multiple(const std::string& key, std::int64_t value, const char* of, std::int64_t divisor) const {
    require(value % divisor == 0, key, "expected a multiple of {} ({}), found {}", of, divisor, value);
  }

  void at_least(const std::string& key, double value, const std::string& other, double bound) const {
    require(value >= bound, key, "expected at least {} ({}), found {}", other, bound, value);
  }

 private:
  const ConfigReader& reader_;
};

void check_data(const Checks& checks, const data::DataConfig& data) {
  const auto& crop = data.augmentation;
  checks.at_least("data.augmentation.scale_max", crop.scale_max, "data.augmentation.scale_min",
                  crop.scale_min);
  checks.at_least("data.augmentation.ratio_max", crop.ratio_max, "data.augmentation.ratio_min",
                  crop.ratio_min);
}

void check_vision(const Checks& checks, const Config& config) {
  const auto& shape = config.vision.architecture;
  checks.multiple("vision.architecture.hidden_size", shape.hidden_size,
                  "vision.architecture.num_attention_heads", shape.num_attention_heads);
  if (config.vision.weights == "random") {
    checks.multiple("vision.architecture.image_size", shape.image_size, "vision.architecture.patch_size",
                    shape.patch_size);
    checks.multiple("data.image_size", config.data.image_size, "vision.architecture.patch_size",
                    shape.patch_size);
  }
}

/// @param section  of the adapters, such as language.lora
/// @param example  a name of one of the modules
void check_lora(const Checks& checks, const std::string& section, const lora::LoraConfig& lora,
                const char* example, bool takes_base_weights_apart) {
  const auto key = [&](const char* name) { return section + "." + name; };
  checks.require(!lora.target_modules.empty(), key("target_modules"),
                 "expected at least one module name, such as {}, found an empty list", example);
  checks.require(lora.layers_pattern.empty() || !lora.layers_to_transform.empty(), key("layers_pattern"),
                 "there is no {}.layers_to_transform that it would belong to", section);
  checks.require(lora.layers_to_transform.empty() || lora.target_modules.pattern.empty(),
                 key("layers_to_transform"),
                 "an expression as {}.target_modules says itself which layers it means", section);
  checks.require(
      takes_base_weights_apart || (lora.init_lora_weights != lora::LoraInit::kPissa &&
                                   lora.init_lora_weights != lora::LoraInit::kOlora),
      key("init_lora_weights"),
      "pissa and olora take weights apart that checkpoints keep as they are, which is possible for "
      "the encoder alone: expected true, false or gaussian");
}

void check_language(const Checks& checks, const language::LanguageConfig& language) {
  // Rotary embeddings turn pairs of numbers, so that a head's width is even.
  checks.require(language.hidden_size % (2 * language.num_attention_heads) == 0, "language.hidden_size",
                 "expected an even multiple of language.num_attention_heads ({}), found {}",
                 language.num_attention_heads, language.hidden_size);
  checks.require(language.max_tokens <= language.max_position_embeddings, "language.max_tokens",
                 "expected at most language.max_position_embeddings ({}), found {}",
                 language.max_position_embeddings, language.max_tokens);
}

void check_fusion(const Checks& checks, const Config& config) {
  const fusion::FusionConfig& fusion = config.fusion;
  checks.require(fusion.levels <= config.language.num_hidden_layers || config.language.weights != "random",
                 "fusion.levels", "expected at most language.num_hidden_layers ({}), found {}",
                 config.language.num_hidden_layers, fusion.levels);
  checks.multiple("compressor.output_size", config.compressor.output_size, "fusion.image_attention_heads",
                  fusion.image_attention_heads);
  checks.multiple("compressor.output_size", config.compressor.output_size, "fusion.cross_attention_heads",
                  fusion.cross_attention_heads);
  if (config.language.weights == "random") {
    checks.multiple("language.hidden_size", config.language.hidden_size, "fusion.cross_attention_heads",
                    fusion.cross_attention_heads);
  }
}

void check_memory(const Checks& checks, const Config& config) {
  const memory::MemoryConfig& memory = config.memory;
  // Every model has a memory, whether or not it is trained.
  checks.require(
      memory.slots < memory.code_size, "memory.slots",
      "expected fewer than memory.code_size ({}), found {}: a full memory would read everything back "
      "unchanged, and nothing could be forgotten",
      memory.code_size, memory.slots);
  if (config.losses.memory.weight == 0) return;
  checks.require(memory.episode <= memory.slots, "memory.episode",
                 "expected at most memory.slots ({}), found {}: an episode is written into them at once",
                 memory.slots, memory.episode);
  checks.multiple("data.batch_size", config.data.batch_size, "memory.episode", memory.episode);
  checks.require(memory.drop_text + memory.drop_image <= 1, "memory.drop_image",
                 "expected at most 1 - memory.drop_text ({}), found {}: a query keeps one of the two",
                 1 - memory.drop_text, memory.drop_image);
}

void check_training(const Checks& checks, const Config& config) {
  const losses::LossesConfig& losses = config.losses;
  std::vector<std::string> features;  // names of the losses that train them
  bool trains_features = false, features_from_the_first = false;
  for_each_loss(losses, [&](const char* name, const auto& loss, losses::Ability ability) {
    if (ability != losses::Ability::kMemory) features.emplace_back(name);
    if (loss.weight == 0) return;
    checks.require(loss.from_epoch <= config.schedule.epochs, fmt::format("losses.{}.from_epoch", name),
                   "expected at most schedule.epochs ({}), found {}: it would never be trained",
                   config.schedule.epochs, loss.from_epoch);
    if constexpr (requires { loss.temperature_min; }) {
      checks.at_least(fmt::format("losses.{}.temperature", name), loss.temperature,
                      fmt::format("losses.{}.temperature_min", name), loss.temperature_min);
    }
    if (ability == losses::Ability::kMemory) return;
    trains_features = true;
    if (loss.from_epoch == 1) features_from_the_first = true;
  });
  checks.require(trains_features || trains(losses, losses::Ability::kMemory), "losses.itc.weight",
                 "every loss has weight 0, expected one above it");
  checks.require(trains_features, "losses.memory.weight",
                 "the memory keeps what other losses make of images and texts: expected one of them with a "
                 "weight above 0");
  checks.require(
      features_from_the_first, "losses.itc.from_epoch",
      "no loss but the memory's begins in epoch 1: expected one of losses.{} with a weight above 0 "
      "and from_epoch 1",
      fmt::join(features, ", "));
  if (config.vision.trainable == lora::TrainableChoice::kLora) {
    const auto& schedule = config.schedule;
    checks.require(schedule.lora_warmup_epochs <= schedule.epochs, "schedule.lora_warmup_epochs",
                   "expected at most schedule.epochs ({}), found {}", schedule.epochs,
                   schedule.lora_warmup_epochs);
  }
}

}  // namespace

void check_config(const Config& config, const ConfigReader& reader) {
  const Checks checks(reader);
  check_data(checks, config.data);
  check_vision(checks, config);
  check_lora(checks, "lora", config.lora, "query", /*takes_base_weights_apart=*/true);
  check_language(checks, config.language);
  check_lora(checks, "language.lora", config.language.lora, "q_proj", /*takes_base_weights_apart=*/false);
  check_lora(checks, "fusion.lora", config.fusion.lora, "query", /*takes_base_weights_apart=*/false);
  check_fusion(checks, config);
  check_memory(checks, config);
  check_training(checks, config);
}

}  // namespace tessera
