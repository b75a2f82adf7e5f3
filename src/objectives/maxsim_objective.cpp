#include <ATen/ATen.h>

#include "core/autocast.h"
#include "losses/maxsim_loss.h"
#include "model/stage1_model.h"
#include "objectives/objective_memory.h"
#include "objectives/objectives.h"

namespace tessera::objectives {

namespace {

class MaxSimObjective : public Objective {
 public:
  using Objective::Objective;

  at::Tensor compute(const Encoded& encoded, const losses::LossesConfig&, Metrics& metrics) override {
    at::Tensor patches, tokens;
    {
      const AutocastScope autocast(context_.compute);
      patches = context_.model.patch_embeddings(encoded.image);
      tokens = context_.model.token_embeddings(encoded.text);
    }
    at::Tensor mask = encoded.tokens.attention_mask;
    if (context_.collectives.size() > 1) {
      tokens = context_.padded(tokens);
      mask = context_.padded(mask);
    }
    const at::Tensor temperature = context_.model.maxsim_temperature();
    const at::Tensor loss = losses::maxsim_loss(patches, tokens, mask, encoded.image_ids, encoded.image_ids,
                                                temperature, context_.collectives)
                                .mean();
    metrics.emplace_back("loss_maxsim", loss);
    metrics.emplace_back("maxsim_temperature", temperature);
    return loss;
  }
};

ObjectiveMemory maxsim_memory(const PassMemory& memory) { return {.kept = memory.passes.maxsim()}; }

}  // namespace

ObjectiveEntry maxsim_objective() {
  return {.name = "maxsim",
          .reads = {.bidirectional_text = true},
          .make = make_objective<MaxSimObjective>,
          .memory = maxsim_memory};
}

}  // namespace tessera::objectives
