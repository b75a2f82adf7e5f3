#pragma once

#include <memory>
#include <optional>

#include "config/config.h"
#include "language/language_model.h"
#include "model/build.h"
#include "model/stage1_model.h"
#include "tests/vision/strip_encoder.h"

namespace tessera::model {

/// The model that a configuration asks for, random, around an encoder that is no DINOv2.
inline std::shared_ptr<Stage1Model> strip_model(const Config& config, const vision::StripShape& shape) {
  const auto language_shape = language::LanguageModelConfig::from_config(config.language);
  return assemble_model(config, vision::StripEncoder::random(shape), /*lora=*/std::nullopt,
                        language::LanguageModel(language_shape, /*seed=*/1));
}

}  // namespace tessera::model
