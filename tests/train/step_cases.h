#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "config/config.h"
#include "core/collectives.h"
#include "core/device.h"
#include "data/loader.h"
#include "data/source.h"
#include "language/tokenizer.h"
#include "model/build.h"
#include "model/stage1_model.h"
#include "train/training_step.h"

namespace tessera::train {

/// With open gates and adapters that do something, so that every pass shows.
inline std::shared_ptr<model::Stage1Model> open_model(const Config& config) {
  auto model = model::build_model(config, std::nullopt).model;
  model->set_lora_trainable(true);
  model->set_training(true);
  torch::manual_seed(21);
  const torch::NoGradGuard no_grad;
  for (const model::NamedParameter& parameter : model->named_parts()) {
    if (parameter.part == model::Part::kGates) parameter.tensor.fill_(0.4);
    if (parameter.name.find(".lora_B.") != std::string::npos) parameter.tensor.normal_(0, 0.1);
  }
  return model;
}

inline TrainingStep make_step(const std::shared_ptr<model::Stage1Model>& model, const Config& config,
                              Collectives& collectives, const data::Source& data,
                              const Compute& compute = {}) {
  return TrainingStep(model, language::Tokenizer::load(config.language.tokenizer), config, compute,
                      collectives, data);
}

/// Captions of different lengths over pictures of noise.
inline data::Batch make_batch(std::int64_t pairs, std::int64_t seed) {
  static const std::vector<std::string> kCaptions = {"a small red circle is left of a large blue square",
                                                     "green",
                                                     "above",
                                                     "a large circle below a red square",
                                                     "blue square",
                                                     "a small green circle"};
  // A generator of its own: ranks are threads.
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<std::uint64_t>(seed));
  data::Batch batch;
  batch.pixels = torch::randint(0, 256, {pairs, 3, 42, 42}, generator, torch::kByte);
  batch.image_ids = torch::arange(pairs) + 1000 * seed;
  for (std::int64_t i = 0; i < pairs; ++i) {
    batch.captions.push_back(kCaptions[static_cast<std::size_t>(i + seed) % kCaptions.size()]);
    batch.keys.push_back(fmt::format("{}-{}", seed, i));
  }
  return batch;
}

inline data::Batch rows_of(const data::Batch& batch, std::int64_t first, std::int64_t count) {
  data::Batch rows;
  rows.pixels = batch.pixels.narrow(0, first, count);
  rows.image_ids = batch.image_ids.narrow(0, first, count);
  rows.captions.assign(batch.captions.begin() + first, batch.captions.begin() + first + count);
  rows.keys.assign(batch.keys.begin() + first, batch.keys.begin() + first + count);
  return rows;
}

inline std::map<std::string, double> values_of(const StepOutput& output) {
  std::map<std::string, double> values = {{"loss", output.loss.item<double>()}};
  for (const auto& [name, value] : output.metrics) {
    EXPECT_EQ(value.dim(), 0) << name;
    EXPECT_TRUE(values.emplace(name, value.item<double>()).second) << name << " is there twice";
  }
  return values;
}

}  // namespace tessera::train
