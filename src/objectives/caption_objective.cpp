#include <ATen/ATen.h>

#include "config/config.h"
#include "core/autocast.h"
#include "fusion/fusion_inputs.h"
#include "language/next_token_loss.h"
#include "model/stage1_model.h"
#include "objectives/memory_queries.h"
#include "objectives/objective_memory.h"
#include "objectives/objectives.h"

namespace tessera::objectives {

namespace {

class CaptionObjective : public Objective {
 public:
  using Objective::Objective;

  at::Tensor compute(const Encoded& encoded, const losses::LossesConfig& losses, Metrics& metrics) override {
    fusion::CaptionCondition condition{encoded.image.states, {}, {}};
    if (losses.memory.weight > 0) condition_on_memory(encoded, condition);
    at::Tensor logits;
    {
      const AutocastScope autocast(context_.compute);
      logits = context_.model.caption_logits(encoded.causal_text, condition);
    }
    const language::NextTokenLoss caption =
        language::next_token_loss(logits, language::next_token_labels(encoded.tokens));
    const at::Tensor loss = context_.mean_over_ranks(caption.value * caption.count, caption.count);
    metrics.emplace_back("loss_caption", loss);
    return loss;
  }

 private:
  /// Read-outs of episodes without the pair, for a share of the captions.
  void condition_on_memory(const Encoded& encoded, fusion::CaptionCondition& condition) const {
    const memory::MemoryConfig& memory = context_.config.memory;
    if (memory.caption_share == 0 || encoded.size() < memory.episode) return;
    const at::Tensor read_outs =
        recall_from_others(memory, context_.model, encoded.pair_vectors, encoded.image_ids);
    at::Tensor sees = draw_captions_with_memory(memory, rows_of(context_, encoded));
    // Pairs of an epoch's last, incomplete episode have none.
    sees.slice(0, read_outs.size(0)).fill_(false);
    condition.memory = at::constant_pad_nd(read_outs, {0, 0, 0, encoded.size() - read_outs.size(0)}, 0);
    condition.has_memory = sees.to(context_.compute.device);
  }
};

ObjectiveMemory caption_memory(const PassMemory& memory) {
  const KeptActivations& passes = memory.passes;
  const bool with_memory = memory.config.losses.memory.weight > 0 && memory.config.memory.caption_share > 0;
  const double read_tokens = with_memory ? static_cast<double>(memory.config.memory.read_tokens) : 0;
  return {.kept = passes.decoder(passes.image_tokens() + read_tokens, with_memory),
          .backward = passes.logits_backward(),
          .cast_weights = memory.decoder_casts()};
}

}  // namespace

ObjectiveEntry caption_objective() {
  return {.name = "caption",
          .reads = {.causal_text = true},
          .make = make_objective<CaptionObjective>,
          .memory = caption_memory};
}

}  // namespace tessera::objectives
