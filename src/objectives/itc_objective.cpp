#include <ATen/ATen.h>

#include "losses/itc.h"
#include "model/stage1_model.h"
#include "objectives/objective_memory.h"
#include "objectives/objectives.h"

namespace tessera::objectives {

namespace {

class ItcObjective : public Objective {
 public:
  using Objective::Objective;

  at::Tensor compute(const Encoded& encoded, const losses::LossesConfig& losses, Metrics& metrics) override {
    const at::Tensor temperature = context_.model.itc_temperature();
    const losses::ItcLossValue itc =
        losses::itc_loss(encoded.image.embedding, encoded.text.embedding, encoded.image_ids, encoded.queue,
                         temperature, losses.itc.queue.same_id, context_.collectives);
    const at::Tensor loss = itc.mean();
    metrics.emplace_back("loss_itc", loss);
    metrics.emplace_back("itc_loss_excess", itc.excess());
    metrics.emplace_back("itc_temperature", temperature);
    return loss;
  }
};

}  // namespace

ObjectiveEntry itc_objective() {
  return {.name = "itc",
          .reads = {.bidirectional_text = true, .queue = true},
          .make = make_objective<ItcObjective>,
          .memory = [](const PassMemory&) { return ObjectiveMemory{}; }};
}

}  // namespace tessera::objectives
