#include "model/build.h"

#include <ATen/Context.h>
#include <torch/utils.h>

#include "config/config.h"
#include "core/error.h"
#include "core/files.h"
#include "core/random.h"
#include "core/weights_file.h"
#include "language/huggingface_export.h"
#include "language/language_model.h"
#include "lora/lora.h"
#include "lora/peft_files.h"
#include "losses/siglip.h"
#include "model/adaptable_parts.h"
#include "model/stage1_model.h"
#include "model/stage1_parts.h"
#include "nn/freeze.h"
#include "vision/encoder_families.h"

namespace tessera::model {

namespace fs = std::filesystem;

namespace {

/// A seed of its own for each part, so that the size of one part does not change how the next is initialised.
std::uint64_t part_seed(const Config& config, std::uint64_t part) {
  CounterRandom random(static_cast<std::uint64_t>(config.run.seed), RandomPurpose::kInitialisation, 0, part);
  const std::uint64_t high = random();
  return high << 32 | random();
}

enum InitialisedPart : std::uint64_t {
  kVisionPart,
  kLoraPart,
  kLanguagePart,
  kHeadsPart,
  kMemoryPart,
  kLanguageLoraPart,
  kFusionLoraPart
};

std::shared_ptr<vision::VisionEncoder> build_backbone(const Config& config, BackboneSource& source) {
  const vision::VisionConfig& vision_config = config.vision;
  if (vision_config.weights.empty()) {
    throw ConfigError("vision.weights: name a folder or file of an image encoder, or say random");
  }
  if (vision_config.weights == "random") {
    auto backbone = vision::random_encoder(vision_config.architecture, vision_config.position_interpolation,
                                           part_seed(config, kVisionPart));
    backbone->set_gradient_checkpointing(vision_config.gradient_checkpointing);
    return backbone;
  }
  if (!fs::exists(vision_config.weights)) {
    throw ConfigError(fmt::format(
        "vision.weights: {}: no such file or folder (expected a Hugging Face folder, or a file of weights: "
        ".safetensors, .bin, .pth or .pt)",
        vision_config.weights));
  }
  auto backbone = vision::load_encoder(vision_config.weights, vision_config.position_interpolation);
  backbone->set_gradient_checkpointing(vision_config.gradient_checkpointing);
  source = {fs::absolute(vision_config.weights).lexically_normal(), backbone_hash(vision_config.weights)};
  return backbone;
}

language::LanguageModel build_language(const Config& config) {
  if (config.language.weights == "random") {
    return language::LanguageModel(language::LanguageModelConfig::from_config(config.language),
                                   part_seed(config, kLanguagePart));
  }
  return language::load_hugging_face(config.language.weights);
}

void check_vocabulary(const Config& config, const language::LanguageModel& language,
                      std::optional<std::int64_t> vocabulary) {
  const std::int64_t size = language->config().vocab_size;
  if (!vocabulary || *vocabulary == size) return;
  throw ConfigError(
      fmt::format("language.vocab_size: the language model has {} entries, the tokenizer {} has {}{}", size,
                  config.language.tokenizer, *vocabulary,
                  config.language.weights == "random" ? fmt::format(": set it to {}", *vocabulary) : ""));
}

void check_image_size(const Config& config, const vision::VisionEncoder& backbone) {
  if (config.data.image_size % backbone.patch_size() == 0) return;
  throw ConfigError(fmt::format("data.image_size: {} is no multiple of the backbone's patch size {}",
                                config.data.image_size, backbone.patch_size()));
}

/// What objectives have of their own.
std::vector<ObjectivePart> objective_parts(const losses::LossesConfig& losses) {
  std::vector<ObjectivePart> parts;
  if (losses.siglip.weight > 0) {
    parts.push_back({"siglip", Part::kTemperature,
                     std::make_shared<losses::SigmoidScale>(
                         losses.siglip.temperature, losses.siglip.temperature_min, losses.siglip.bias)});
  }
  return parts;
}

/// Adapters on a part, as a configuration asks, or as a checkpoint has them.
/// @param checkpoint  empty: a new model's
lora::LoraOptions add_adapters(lora::AdaptableModule& module, const AdaptablePart& part, const Config& config,
                               InitialisedPart seed, const fs::path& checkpoint) {
  if (!checkpoint.empty()) return lora::load_adapter(checkpoint / part.folder, module);
  const lora::LoraConfig& wanted = part.lora.of(config);
  if (!wanted.adapter.empty()) {
    try {
      return lora::load_adapter(wanted.adapter, module);
    } catch (const Error& error) {
      throw ConfigError(fmt::format("{}.adapter: {}", part.section, error.what()));
    }
  }
  const auto options = lora::LoraOptions::from_config(wanted);
  try {
    lora::refuse_unused_names(module, options);
    lora::inject_lora(module, options, part_seed(config, seed));
  } catch (const Error& error) {
    throw ConfigError(fmt::format("{}.{}", part.section, error.what()));
  }
  return options;
}

/// Freezes a part, the language model or the fusion, that doesn't train whole, and adds its adapters (which
/// freezes what they are on). Of a
/// checkpoint its base weights are in a file of their own, whose values are read over those here.
std::optional<lora::LoraOptions> train_in_part(lora::AdaptableModule& module, const AdaptablePart& part,
                                               const Config& config, InitialisedPart seed,
                                               const fs::path& checkpoint) {
  if (part.trainable.of(config) == lora::TrainableChoice::kNone) nn::freeze(module);
  if (!part.is_adapted(config)) return {};
  const lora::LoraOptions options = add_adapters(module, part, config, seed, checkpoint);
  if (lora::takes_base_weights_apart(options.init)) {
    throw ConfigError(
        fmt::format("{}.adapter: it says init_lora_weights \"{}\", which takes weights apart that "
                    "checkpoints keep as they are: expected true, false or gaussian",
                    part.section, lora::init_word(options.init)));
  }
  return options;
}

/// What can't train has to have been trained.
void refuse_untrained_parts(const Config& config) {
  const auto& [encoder, language, fusion] = adaptable_parts();
  const auto refuse = [](const AdaptablePart& part, const char* because) {
    throw ConfigError(fmt::format("{}: none and lora leave the {}'s weights as they are, {}",
                                  part.trainable_key, part.name, because));
  };
  if (!config.init_from.empty()) return;
  if (language.trainable.of(config) != lora::TrainableChoice::kFull && config.language.weights == "random")
    refuse(language, "which are random: name trained ones (language.weights, init_from)");
  if (fusion.trainable.of(config) != lora::TrainableChoice::kFull)
    refuse(fusion, "with gates of 0, which let nothing through: name a trained model (init_from)");
}

}  // namespace

std::string backbone_hash(const fs::path& path) { return file_hash(find_weights_file(path)); }

std::shared_ptr<Stage1Model> assemble_model(const Config& config,
                                            std::shared_ptr<vision::VisionEncoder> backbone,
                                            std::optional<lora::LoraOptions> lora,
                                            language::LanguageModel language,
                                            const std::filesystem::path& checkpoint) {
  // torch::nn's modules draw from the global generator; a run seeds it afresh before it trains.
  at::manual_seed(part_seed(config, kHeadsPart));
  Stage1Parts parts;
  const std::int64_t width = backbone->hidden_size();
  parts.vision = std::move(backbone);
  parts.compressor = vision::FeatureCompressor(width, config.compressor);
  const std::int64_t image_size = config.compressor.output_size;
  const std::int64_t text_size = language->config().hidden_size;
  parts.fusion =
      fusion::FusionTower(config.fusion, fusion::FusionTowerSizes{.image_size = image_size,
                                                                  .text_size = text_size,
                                                                  .code_size = config.memory.code_size,
                                                                  .read_tokens = config.memory.read_tokens});
  const auto& [encoder, of_language, of_fusion] = adaptable_parts();
  parts.language_lora = train_in_part(*language, of_language, config, kLanguageLoraPart, checkpoint);
  parts.fusion_lora = train_in_part(*parts.fusion, of_fusion, config, kFusionLoraPart, checkpoint);
  parts.poolers =
      fusion::ItcPoolers(fusion::ItcPoolersOptions{image_size, text_size, config.fusion.embedding_size});
  parts.token_projections = fusion::TokenProjections(
      fusion::TokenProjectionsOptions{image_size, text_size, config.fusion.token_size});
  parts.match_head = fusion::MatchHead(fusion::MatchHeadOptions{image_size, text_size});
  parts.pair_code = memory::PairCode(memory::PairCodeOptions{
      .image_size = 2 * image_size, .text_size = text_size, .code_size = config.memory.code_size});
  parts.memory = memory::EpisodicMemory(config.memory, part_seed(config, kMemoryPart));
  parts.maxsim_temperature = std::make_shared<losses::Temperature>(config.losses.maxsim.temperature,
                                                                   config.losses.maxsim.temperature_min);
  parts.objectives = objective_parts(config.losses);
  parts.language = std::move(language);
  parts.itc_temperature =
      std::make_shared<losses::Temperature>(config.losses.itc.temperature, config.losses.itc.temperature_min);
  parts.image_mean = config.data.image_mean;
  parts.image_std = config.data.image_std;
  parts.trainable = config.vision.trainable;
  parts.lora = std::move(lora);
  return std::make_shared<Stage1Model>(std::move(parts));
}

BuiltModel build_model(const Config& config, std::optional<std::int64_t> vocabulary) {
  BuiltModel built;
  for (const AdaptablePart& part : adaptable_parts()) {
    if (part.lora.of(config).adapter.empty() || part.is_adapted(config)) continue;
    throw ConfigError(
        fmt::format("{}.adapter: counts with {}: lora alone; for an adapter that stays as it is, merge it "
                    "into the weights (tessera adapter merge)",
                    part.section, part.trainable_key));
  }
  refuse_untrained_parts(config);
  language::LanguageModel language = build_language(config);
  check_vocabulary(config, language, vocabulary);
  auto backbone = build_backbone(config, built.backbone);
  check_image_size(config, *backbone);
  if (language->num_layers() < config.fusion.levels) {
    throw ConfigError(fmt::format("fusion.levels: expected at most the language model's {} layers, found {}",
                                  language->num_layers(), config.fusion.levels));
  }
  std::optional<lora::LoraOptions> lora;
  if (config.vision.trainable == lora::TrainableChoice::kLora) {
    lora = add_adapters(*backbone, adaptable_parts().front(), config, kLoraPart, /*checkpoint=*/{});
    // Its file is written with the adapters in place, and they would be taken out of it once more at reading.
    if (config.vision.weights == "random" && lora::takes_base_weights_apart(lora->init)) {
      throw ConfigError(
          fmt::format("lora.init_lora_weights: \"{}\" takes trained weights apart, and vision.weights is "
                      "random: expected true, false or gaussian",
                      lora::init_word(lora->init)));
    }
  }
  built.model = assemble_model(config, std::move(backbone), std::move(lora), std::move(language));
  built.model->freeze_unused(config.losses);
  built.model->set_lora_trainable(false);
  return built;
}

}  // namespace tessera::model
