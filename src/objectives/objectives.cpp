#include "objectives/objectives.h"

#include <ATen/ATen.h>

#include "config/config.h"
#include "losses/loss_abilities.h"

namespace tessera::objectives {

// One a file.
ObjectiveEntry itc_objective();      ///< image-text contrast with a queue (losses/itc.h)
ObjectiveEntry siglip_objective();   ///< image-text contrast by sigmoids (losses/siglip.h)
ObjectiveEntry maxsim_objective();   ///< contrast by late interaction (losses/maxsim_loss.h)
ObjectiveEntry itm_objective();      ///< matching with hard negatives (losses/itm.h)
ObjectiveEntry caption_objective();  ///< next-token loss of captions under an image
ObjectiveEntry memory_objective();   ///< episodes written into the memory and read (memory/memory_losses.h)

const std::vector<ObjectiveEntry>& all_objectives() {
  static const std::vector<ObjectiveEntry> kObjectives = {itc_objective(),     siglip_objective(),
                                                          maxsim_objective(),  itm_objective(),
                                                          caption_objective(), memory_objective()};
  return kObjectives;
}

std::vector<ObjectiveEntry> chosen_objectives(const losses::LossesConfig& losses) {
  std::vector<ObjectiveEntry> chosen;
  for (const ObjectiveEntry& entry : all_objectives()) {
    if (loss_weight(losses, entry.name) > 0) chosen.push_back(entry);
  }
  return chosen;
}

Reads reads_of(const losses::LossesConfig& losses) {
  Reads all;
  for (const ObjectiveEntry& entry : chosen_objectives(losses)) all = all | entry.reads;
  return all;
}

bool has_queue(const losses::LossesConfig& losses) {
  return losses.itc.queue.size > 0 && reads_of(losses).queue;
}

Reads Reads::operator|(const Reads& other) const {
  return {.bidirectional_text = bidirectional_text || other.bidirectional_text,
          .causal_text = causal_text || other.causal_text,
          .pair_vectors = pair_vectors || other.pair_vectors,
          .queue = queue || other.queue,
          .queue_payload = queue_payload || other.queue_payload};
}

at::Tensor StepContext::mean_over_ranks(const at::Tensor& sum, const at::Tensor& count) const {
  const at::Tensor counted = count.detach().to(sum.scalar_type());
  if (collectives.size() == 1) return sum / counted.clamp_min(1);
  return sum * (static_cast<double>(collectives.size()) / collectives.all_reduce_sum(counted).clamp_min(1));
}

at::Tensor StepContext::padded(const at::Tensor& text) const {
  return padded(text, config.language.max_tokens);
}

at::Tensor StepContext::padded(const at::Tensor& text, std::int64_t length) const {
  const std::int64_t missing = length - text.size(1);
  if (missing == 0) return text;
  if (text.dim() == 3) return at::constant_pad_nd(text, {0, 0, 0, missing}, 0);
  return at::constant_pad_nd(text, {0, missing}, pad_id);
}

}  // namespace tessera::objectives
