#pragma once

#include <torch/torch.h>

#include <memory>
#include <string>

#include "config/config.h"
#include "inference/trained_model.h"
#include "language/tokenizer.h"
#include "model/build.h"
#include "model/stage1_model.h"
#include "tests/train/small_run.h"

namespace tessera::inference {

/// A random model in evaluation mode, with open gates, so that what is fused can be heard; beside it the tiny
/// set of SmallRun.
struct OpenModel {
  explicit OpenModel(const std::string& name) : small("tessera-" + name), config(small.config(name)) {
    const torch::NoGradGuard no_grad;
    for (const model::NamedParameter& parameter : model->named_parts()) {
      at::Tensor tensor = parameter.tensor;
      if (parameter.part == model::Part::kGates) tensor.fill_(0.7);
    }
    model->set_training(false);
  }

  TrainedModel trained() const { return {*model, tokenizer, config, Compute{}}; }

  train::SmallRun small;
  Config config;
  language::Tokenizer tokenizer = language::Tokenizer::load(config.language.tokenizer);
  std::shared_ptr<model::Stage1Model> model = model::build_model(config, tokenizer.vocab_size()).model;
};

}  // namespace tessera::inference
