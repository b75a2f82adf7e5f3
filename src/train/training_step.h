#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/collectives.h"
#include "core/config.h"
#include "core/device.h"
#include "fusion/fusion_inputs.h"
#include "language/tokenizer.h"
#include "losses/hard_negatives.h"
#include "losses/itc_queue.h"
#include "losses/itm.h"
#include "losses/staleness.h"
#include "model/features.h"
#include "train/memory_queries.h"

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

struct StepOutput {
  at::Tensor loss;                                          ///< 0-dim, to be differentiated
  std::vector<std::pair<std::string, at::Tensor>> metrics;  ///< 0-dim tensors on the device
};

/// What one training step computes: the passes of the model, the losses, and the state that losses keep
/// between steps (the ITC queue and its staleness probe). A loss of weight 0 is left out with its passes and
/// its metrics. Losses and metrics are this rank's share: their mean over ranks, which is what averaging
/// gradients computes, is exactly the mean over the terms of all ranks.
/// A profiler sees the parts as user scopes: "image" (in it "encoder"), "text", "itc", "maxsim", "itm",
/// "caption", "memory".
class TrainingStep {
 public:
  /// Reads and prepares the probe's pairs from the training data (a choice of the seed alone).
  TrainingStep(std::shared_ptr<model::Stage1Model> model, language::Tokenizer tokenizer, const Config& config,
               const Compute& compute, Collectives& collectives, const data::Source& training_data);

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

  /// What the passes without fusion give, and all losses start from.
  struct Encoded {
    std::int64_t step;
    language::TokenBatch tokens;
    at::Tensor image_ids;
    model::ImageFeatures image;
    model::TextFeatures text;  ///< undefined where captions are all that is trained on
    at::Tensor
        causal_text;  ///< unconditioned_text, for captions and memory; undefined where neither is trained
    model::PairVectors pair_vectors;  ///< undefined without the memory
    std::optional<losses::QueueView> queue;

    std::int64_t size() const { return image_ids.size(0); }
  };
  /// The 3B pairs that matching judges: positives, those with a negative image, those with a negative text.
  struct MatchPairs {
    at::Tensor image_tokens, lower_text, attention_mask;  ///< the batch's own, and what comes from elsewhere
    fusion::PairRows rows;
    fusion::FirstAttention attended;  ///< undefined where some come from elsewhere
  };

  bool reads_bidirectional_text() const;
  bool uses_queue() const;
  /// Σ of this rank's terms → its share of the mean over the terms of all ranks; 0 where there are none.
  at::Tensor mean_over_ranks(const at::Tensor& sum, const at::Tensor& count) const;
  /// Text tokens, or their ids or mask, padded to `length`; to language.max_tokens it is the same shape on
  /// every rank.
  at::Tensor padded(const at::Tensor& text, std::int64_t length) const;
  at::Tensor padded(const at::Tensor& text) const { return padded(text, config_.language.max_tokens); }

  Encoded encode(const data::Batch& batch, std::int64_t step);
  void add_itc(const Encoded& encoded, StepOutput& output);
  void add_maxsim(const Encoded& encoded, StepOutput& output);
  void add_itm(const Encoded& encoded, StepOutput& output);
  void add_itm_accuracies(const losses::ItmLossValue& itm, bool with_queue, StepOutput& output) const;
  /// How many tokens the longest of some texts takes.
  /// @param attention_mask [N, T] bool
  std::int64_t longest_text(const at::Tensor& attention_mask) const;
  MatchPairs match_pairs(const Encoded& encoded, const losses::HardNegatives& negatives);
  void add_caption(const Encoded& encoded, StepOutput& output);
  void add_memory(const Encoded& encoded, StepOutput& output);
  /// Read-outs of episodes without the pair, for a share of the captions.
  void condition_on_memory(const Encoded& encoded, fusion::CaptionCondition& condition);
  StepRows rows_of(const Encoded& encoded) const;
  void add_gates(StepOutput& output) const;

  void read_probe(const data::Source& training_data);
  language::TokenBatch tokens_of(const std::vector<std::string>& captions) const;
  std::pair<at::Tensor, at::Tensor> encode_probe();

  std::shared_ptr<model::Stage1Model> model_;
  language::Tokenizer tokenizer_;
  Config config_;
  LossesConfig losses_;  ///< those of the epoch
  Compute compute_;
  Collectives& collectives_;
  std::unique_ptr<losses::ItcQueue> queue_;            ///< none where its size is 0, or nothing reads it
  std::unique_ptr<losses::StalenessProbe> staleness_;  ///< none without a queue
  ProbePairs probe_;

  std::int64_t captions_cut_ = 0;  ///< to language.max_tokens, by this process

  // What the last batch leaves until its update is done.
  losses::QueueEntries last_;        ///< enters the queue
  model::PairVectors pair_vectors_;  ///< to be observed by the pair code after the update
};

}  // namespace tessera::train
