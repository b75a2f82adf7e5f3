#include "bench/step_under_test.h"

#include <ATen/Context.h>
#include <torch/utils.h>

#include <chrono>

#include "bench/made_up_queue.h"
#include "core/archive.h"
#include "core/error.h"
#include "core/logging.h"
#include "data/loader.h"
#include "data/open_source.h"
#include "model/stage1_model.h"
#include "train/parameter_groups.h"
#include "train/training_images.h"

namespace tessera::bench {

namespace {

using Clock = std::chrono::steady_clock;

double lap(Clock::time_point& since) {
  const Clock::time_point now = Clock::now();
  const double seconds = std::chrono::duration<double>(now - since).count();
  since = now;
  return seconds;
}

data::TrainLoader open_loader(std::shared_ptr<const data::Source> source, const Config& config,
                              const Logger& logger) {
  data::DataConfig data = config.data;
  data.workers = data.prefetch_batches = 1;
  data.drop_last = true;
  data.max_broken_fraction = data::DataConfig{}.max_broken_fraction;
  return {std::move(source), data, {.seed = static_cast<std::uint64_t>(config.run.seed)}, logger};
}

}  // namespace

StepUnderTest::StepUnderTest(const Config& config, BenchPhase phase, std::int64_t batches)
    : config_(config),
      compute_(choose_compute(config.run.device, config.run.precision, config.run.threads)),
      tokenizer_(language::Tokenizer::load(config.language.tokenizer)) {
  const Logger logger = make_logger({}, /*terminal=*/false);
  if (config_.data.train.empty()) throw ConfigError("data.train: no training data is named");
  data_ = data::open_source(config_.data.train, config_.data, logger);
  built_ = model::build_model(config_, tokenizer_.vocab_size());
  at::manual_seed(static_cast<std::uint64_t>(config_.run.seed));
  built_.model->to(compute_.device);
  if (config_.vision.weights == "random" && config_.vision.trainable != lora::TrainableChoice::kFull) {
    train::standardise_encoder(*built_.model, *data_, config_, compute_.device);
  }
  training_step_ = std::make_unique<train::TrainingStep>(built_.model, tokenizer_, config_, compute_,
                                                         collectives_, *data_);
  built_.model->set_lora_trainable(phase == BenchPhase::kAllTrains);
  built_.model->set_training(true);
  optimizer_ = std::make_unique<train::AdamW>(
      train::parameter_groups(*built_.model, config_.schedule, config_.optimizer), config_.optimizer);
  for (const train::ParameterGroup& group : optimizer_->groups()) {
    learning_rates_.push_back(group.peak_learning_rate);
  }

  data::TrainLoader loader = open_loader(data_, config_, logger);
  loader.start_epoch(0);
  while (static_cast<std::int64_t>(batches_.size()) < batches) {
    std::optional<data::Batch> batch = loader.next();
    if (!batch) break;
    batches_.push_back(std::move(*batch));
  }
  if (batches_.empty()) fail("data.train: not one batch of {} pairs", config_.data.batch_size);
  Archive state;
  training_step_->save(state);
  if (state.tensors().empty()) return;
  std::vector<std::string> captions;
  for (const data::Batch& batch : batches_)
    captions.insert(captions.end(), batch.captions.begin(), batch.captions.end());
  fill_queue(state, tokenizer_, captions);
  training_step_->load(state);
}

std::optional<losses::ItcQueue> StepUnderTest::queue() const {
  Archive state;
  training_step_->save(state);
  if (state.tensors().empty()) return std::nullopt;
  return queue_in(state);
}

StepTimes StepUnderTest::run() {
  const data::Batch& batch = batches_[static_cast<std::size_t>(step_) % batches_.size()];
  StepTimes times;
  Clock::time_point since = Clock::now();
  optimizer_->zero_grad();
  train::StepOutput output = training_step_->compute(batch, step_);
  times.compute = lap(since);
  output.loss.backward();
  times.backward = lap(since);
  optimizer_->step(learning_rates_, output.loss);
  times.update = lap(since);
  training_step_->after_update(step_);
  output = {};
  times.after_update = lap(since);
  ++step_;
  return times;
}

train::StepOutput StepUnderTest::differentiate(const data::Batch& batch) {
  optimizer_->zero_grad();
  train::StepOutput output = training_step_->compute(batch, step_);
  output.loss.backward();
  return output;
}

}  // namespace tessera::bench
