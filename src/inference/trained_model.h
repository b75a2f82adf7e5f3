#pragma once

#include "core/config.h"
#include "core/device.h"
#include "language/tokenizer.h"
#include "model/stage1_model.h"

namespace tessera::inference {

/// A model, in evaluation mode on its device, as its checkpoint has it.
struct TrainedModel {
  model::Stage1Model& model;
  const language::Tokenizer& tokenizer;
  const Config& config;
  Compute compute;
};

}  // namespace tessera::inference
