#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "config/config.h"
#include "core/collectives.h"
#include "core/device.h"
#include "data/loader.h"
#include "data/source.h"
#include "language/tokenizer.h"
#include "losses/itc_queue.h"
#include "model/build.h"
#include "train/adamw.h"
#include "train/training_step.h"

namespace tessera::bench {

enum class BenchPhase { kLoraFrozen = 1, kAllTrains = 2 };

struct StepTimes {
  double compute = 0;
  double backward = 0;
  double update = 0;  ///< clipping and AdamW
  double after_update = 0;

  double total() const { return compute + backward + update + after_update; }
};

/// The training step of a configuration, put together as a run does it, over batches that are decoded
/// beforehand. A queue is full from the start (made_up_queue.h).
class StepUnderTest {
 public:
  /// @param batches how many of the first epoch's batches to hold
  /// @throws Error / ConfigError
  StepUnderTest(const Config& config, BenchPhase phase, std::int64_t batches);

  /// The whole step on the next of the batches, in turn.
  StepTimes run();
  /// Forward and backward without an update. The gradients stay where they are.
  train::StepOutput differentiate(const data::Batch& batch);

  const Config& config() const { return config_; }
  const std::vector<data::Batch>& batches() const { return batches_; }
  const Compute& compute() const { return compute_; }
  const language::Tokenizer& tokenizer() const { return tokenizer_; }
  SingleProcess& collectives() { return collectives_; }
  model::Stage1Model& model() { return *built_.model; }
  train::AdamW& optimizer() { return *optimizer_; }
  const std::vector<double>& learning_rates() const { return learning_rates_; }
  /// A copy of the queue as it is now; none where the step has none.
  std::optional<losses::ItcQueue> queue() const;
  /// Updates done; the number that the next step draws its random numbers by.
  std::int64_t step() const { return step_; }

 private:
  Config config_;
  Compute compute_;
  SingleProcess collectives_;
  language::Tokenizer tokenizer_;
  std::shared_ptr<const data::Source> data_;
  model::BuiltModel built_;
  std::unique_ptr<train::TrainingStep> training_step_;
  std::unique_ptr<train::AdamW> optimizer_;
  std::vector<double> learning_rates_;
  std::vector<data::Batch> batches_;
  std::int64_t step_ = 0;
};

}  // namespace tessera::bench
