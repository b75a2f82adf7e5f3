#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "core/config.h"
#include "fusion/fusion_tower.h"
#include "fusion/itc_poolers.h"
#include "fusion/match_head.h"
#include "fusion/token_projections.h"
#include "language/language_model.h"
#include "losses/temperature.h"
#include "memory/episodic_memory.h"
#include "memory/pair_code.h"
#include "vision/compressor.h"
#include "vision/encoder.h"
#include "vision/lora_options.h"

namespace tessera::model {

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
  std::vector<double> image_mean;
  std::vector<double> image_std;
  TrainableChoice trainable = TrainableChoice::kLora;
  std::optional<vision::LoraOptions> lora;  ///< set where the backbone carries adapters
};

}  // namespace tessera::model
