#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "fusion/fusion_tower.h"
#include "fusion/itc_poolers.h"
#include "fusion/match_head.h"
#include "fusion/token_projections.h"
#include "language/language_model.h"
#include "lora/lora_config.h"
#include "lora/lora_options.h"
#include "losses/temperature.h"
#include "memory/episodic_memory.h"
#include "memory/pair_code.h"
#include "model/stage1_model.h"
#include "vision/compressor.h"
#include "vision/encoder.h"

namespace tessera::model {

/// Parameters that an objective alone has, beside the poolers and heads.
struct ObjectivePart {
  std::string name;  ///< of the objective, and of the module in the model
  Part part;
  std::shared_ptr<torch::nn::Module> module;
};

/// The parts that a model is composed of; see model/build.h for making them from a configuration or a
/// checkpoint.
struct Stage1Parts {
  std::shared_ptr<vision::VisionEncoder> vision;
  vision::FeatureCompressor compressor{nullptr};
  language::LanguageModel language{nullptr};
  fusion::FusionTower fusion{nullptr};
  fusion::ItcPoolers poolers{nullptr};
  fusion::TokenProjections token_projections{nullptr};
  fusion::MatchHead match_head{nullptr};
  memory::PairCode pair_code{nullptr};
  memory::EpisodicMemory memory{nullptr};
  std::shared_ptr<losses::Temperature> itc_temperature;
  std::shared_ptr<losses::Temperature> maxsim_temperature;
  std::vector<ObjectivePart> objectives;  ///< of those of weight above 0 that have one
  std::vector<double> image_mean;
  std::vector<double> image_std;
  lora::TrainableChoice trainable = lora::TrainableChoice::kLora;
  /// Set where the encoder, the language model, the fusion carry adapters.
  std::optional<lora::LoraOptions> lora, language_lora, fusion_lora;
};

}  // namespace tessera::model
