#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "config/config.h"
#include "core/collectives.h"
#include "core/device.h"
#include "language/tokenizer.h"
#include "losses/itc_queue.h"
#include "losses/staleness.h"
#include "objectives/objective.h"
#include "objectives/objectives.h"
#include "train/step_output.h"

namespace tessera {
class Archive;
}
namespace tessera::data {
struct Batch;
class Source;
}  // namespace tessera::data
namespace tessera::model {
class Stage1Model;
}

namespace tessera::train {

/// What one training step computes: the passes that objectives share, the objectives (src/objectives), and
/// the state that these keep between steps (the ITC queue and its staleness probe). An objective of weight 0
/// is left out with its passes and its metrics. Losses and metrics are this rank's share: their mean over
/// ranks, which is what averaging gradients computes, is exactly the mean over the terms of all ranks.
/// A profiler sees the parts as user scopes: "image" (in it "encoder"), "text", and each objective's name.
class TrainingStep {
 public:
  /// Reads and prepares the probe's pairs from the training data (a choice of the seed alone).
  TrainingStep(std::shared_ptr<model::Stage1Model> model, language::Tokenizer tokenizer, const Config& config,
               const Compute& compute, Collectives& collectives, const data::Source& training_data);
  TrainingStep(const TrainingStep&) = delete;
  TrainingStep& operator=(const TrainingStep&) = delete;

  /// Leaves out the losses that begin later (losses.NAME.from_epoch). Until it is called all are in.
  /// @param epoch  counted from 0
  void begin_epoch(std::int64_t epoch);
  /// The forward passes and losses of a batch; the probe is measured first where it is due.
  /// @param step  updates done before this one
  StepOutput compute(const data::Batch& batch, std::int64_t step);
  /// What follows the optimizer's update: the batch enters the queue.
  /// @param step  the same as compute()'s, the updates that the weights had seen when they encoded the batch
  void after_update(std::int64_t step);

  /// Figures that the host knows without asking the device.
  nlohmann::json host_metrics() const;
  /// A warning where the queue is large for the data; empty where it is not.
  std::string queue_note(std::int64_t training_images) const;

  void save(Archive& archive) const;
  void load(const Archive& archive);

 private:
  struct ProbePairs {
    at::Tensor pixels;  ///< [N, 3, S, S] uint8
    language::TokenBatch tokens;
  };
  struct Chosen {
    objectives::ObjectiveEntry entry;
    std::unique_ptr<objectives::Objective> objective;
  };

  /// The chosen ones that the epoch trains.
  template <typename Visit>
  void for_each_active(const Visit& visit);
  bool uses_queue() const;
  objectives::Encoded encode(const data::Batch& batch, std::int64_t step);
  void add_gates(objectives::Metrics& metrics) const;

  void make_queue(const data::Source& training_data);
  void read_probe(const data::Source& training_data);
  language::TokenBatch tokens_of(const std::vector<std::string>& captions) const;
  std::pair<at::Tensor, at::Tensor> encode_probe();

  std::shared_ptr<model::Stage1Model> model_;
  language::Tokenizer tokenizer_;
  Config config_;
  objectives::StepContext context_;
  std::vector<Chosen> chosen_;
  losses::LossesConfig losses_;                        ///< those of the epoch
  objectives::Reads reads_;                            ///< of these
  std::unique_ptr<losses::ItcQueue> queue_;            ///< none where its size is 0, or nothing reads it
  std::unique_ptr<losses::StalenessProbe> staleness_;  ///< none without a queue
  ProbePairs probe_;

  std::int64_t captions_cut_ = 0;  ///< to language.max_tokens, by this process
  losses::QueueEntries last_;      ///< enters the queue once the last batch's update is done
};

}  // namespace tessera::train
