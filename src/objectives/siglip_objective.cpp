#include <ATen/ATen.h>

#include "losses/siglip.h"
#include "model/stage1_model.h"
#include "objectives/objective_memory.h"
#include "objectives/objectives.h"

namespace tessera::objectives {

namespace {

class SiglipObjective : public Objective {
 public:
  using Objective::Objective;

  at::Tensor compute(const Encoded& encoded, const losses::LossesConfig&, Metrics& metrics) override {
    auto& scale = dynamic_cast<losses::SigmoidScale&>(context_.model.objective_module("siglip"));
    const at::Tensor temperature = scale.temperature();
    const at::Tensor loss =
        losses::siglip_loss(encoded.image.embedding, encoded.text.embedding, encoded.image_ids, temperature,
                            scale.bias(), context_.collectives)
            .mean();
    metrics.emplace_back("loss_siglip", loss);
    metrics.emplace_back("siglip_temperature", temperature);
    metrics.emplace_back("siglip_bias", scale.bias().detach());
    return loss;
  }
};

}  // namespace

ObjectiveEntry siglip_objective() {
  return {.name = "siglip",
          .reads = {.bidirectional_text = true},
          .make = make_objective<SiglipObjective>,
          .memory = [](const PassMemory&) { return ObjectiveMemory{}; }};
}

}  // namespace tessera::objectives
