#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/collectives.h"
#include "core/device.h"
#include "language/tokenizer.h"
#include "losses/queue_view.h"
#include "model/features.h"

namespace tessera {
struct Config;
}
namespace tessera::model {
class Stage1Model;
}
namespace tessera::losses {
struct LossesConfig;
}

namespace tessera::objectives {

using Metrics = std::vector<std::pair<std::string, at::Tensor>>;  ///< 0-dim tensors on the device

/// What the passes without fusion give, computed once a step for all objectives that read them.
struct Encoded {
  std::int64_t step = 0;
  language::TokenBatch tokens;
  at::Tensor image_ids;  ///< [B] int64
  model::ImageFeatures image;
  model::TextFeatures text;                ///< undefined where no objective reads bidirectional text
  at::Tensor causal_text;                  ///< unconditioned_text; undefined where none reads it
  model::PairVectors pair_vectors;         ///< undefined where none reads them
  std::optional<losses::QueueView> queue;  ///< none where none reads it

  std::int64_t size() const { return image_ids.size(0); }
};

/// Which of these an objective reads, beside the image and the tokens.
struct Reads {
  bool bidirectional_text = false;
  bool causal_text = false;
  bool pair_vectors = false;
  bool queue = false;          ///< the embeddings of past batches
  bool queue_payload = false;  ///< and the images and texts that they were made of

  Reads operator|(const Reads& other) const;
};

/// What a training run gives its objectives, and what they share in computing.
struct StepContext {
  model::Stage1Model& model;
  const Config& config;
  Compute compute;
  Collectives& collectives;
  std::int64_t pad_id = 0;

  /// Σ of this rank's terms → its share of the mean over the terms of all ranks; 0 where there are none.
  at::Tensor mean_over_ranks(const at::Tensor& sum, const at::Tensor& count) const;
  /// Text tokens [B, T, C], or their ids or mask [B, T], padded to `length`.
  at::Tensor padded(const at::Tensor& text, std::int64_t length) const;
  /// To language.max_tokens: the same shape on every rank.
  at::Tensor padded(const at::Tensor& text) const;
};

/// One term of the training loss: its pass and what it keeps between steps. A new one is a file and its entry
/// in all_objectives (objectives.cpp).
class Objective {
 public:
  explicit Objective(const StepContext& context) : context_(context) {}
  virtual ~Objective() = default;
  Objective(const Objective&) = delete;
  Objective& operator=(const Objective&) = delete;

  /// This rank's share of the term's mean over ranks, before its weight; undefined where the batch has none.
  /// @param losses   those of the epoch: one that begins later has weight 0
  /// @param metrics  gets "loss_NAME" and what else is worth telling
  virtual at::Tensor compute(const Encoded& encoded, const losses::LossesConfig& losses,
                             Metrics& metrics) = 0;
  /// What follows the optimizer's update.
  virtual void after_update() {}

 protected:
  const StepContext& context_;
};

}  // namespace tessera::objectives
