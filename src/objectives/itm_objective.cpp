#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "config/config.h"
#include "core/autocast.h"
#include "fusion/fusion_inputs.h"
#include "losses/hard_negatives.h"
#include "losses/itm.h"
#include "model/stage1_model.h"
#include "objectives/objective_memory.h"
#include "objectives/objectives.h"

namespace tessera::objectives {

namespace {

/// The 3B pairs that matching judges: positives, those with a negative image, those with a negative text.
struct MatchPairs {
  at::Tensor image_tokens, lower_text, attention_mask;  ///< the batch's own, and what comes from elsewhere
  fusion::PairRows rows;
  fusion::FirstAttention attended;  ///< undefined where some come from elsewhere
};

/// How many tokens the longest of some texts takes.
/// @param attention_mask [N, T] bool
std::int64_t longest_text(const at::Tensor& attention_mask) {
  // To ask a GPU the host would have to wait for all that it has queued.
  if (!attention_mask.is_cpu()) return attention_mask.size(1);
  return attention_mask.sum(1).max().item<std::int64_t>();
}

class ItmObjective : public Objective {
 public:
  using Objective::Objective;

  at::Tensor compute(const Encoded& encoded, const losses::LossesConfig& losses, Metrics& metrics) override {
    Collectives& collectives = context_.collectives;
    const losses::NegativeWeights weights = losses::itm_weights(
        encoded.image.embedding.detach(), encoded.text.embedding.detach(), encoded.image_ids, encoded.queue,
        context_.model.itc_temperature().detach(), collectives, losses.itm.uniform_share);
    const losses::HardNegatives negatives = draw(weights, encoded);
    at::Tensor logits;
    {
      const AutocastScope autocast(context_.compute);
      const MatchPairs pairs = match_pairs(encoded, negatives);
      logits = context_.model.match_logits(pairs.image_tokens, pairs.lower_text, pairs.attention_mask,
                                           pairs.rows, pairs.attended);
    }
    const losses::ItmLossValue itm = losses::itm_loss(logits, negatives, encoded.size() * collectives.size());
    const at::Tensor loss = context_.mean_over_ranks(itm.sum, itm.count);
    metrics.emplace_back("loss_itm", loss);
    add_accuracies(itm, encoded.queue.has_value(), metrics);
    metrics.emplace_back("itm_negative_similarity", losses::itm_negative_similarity(weights, negatives));
    return loss;
  }

 private:
  losses::HardNegatives draw(const losses::NegativeWeights& weights, const Encoded& encoded) const {
    const losses::NoiseShape shape{context_.collectives.rank() * encoded.size(), encoded.size(),
                                   weights.text_weights.size(1)};
    const auto noise = [&](losses::NegativeDirection direction) {
      return losses::gumbel_noise(static_cast<std::uint64_t>(context_.config.run.seed), direction,
                                  encoded.step, shape, context_.compute.device);
    };
    return losses::draw_hard_negatives(weights, noise(losses::NegativeDirection::kText),
                                       noise(losses::NegativeDirection::kImage));
  }

  MatchPairs match_pairs(const Encoded& encoded, const losses::HardNegatives& negatives) const {
    Collectives& collectives = context_.collectives;
    const at::Tensor own = at::arange(encoded.size(), encoded.image_ids.options());
    if (!encoded.queue && collectives.size() == 1) {
      return {encoded.image.tokens,
              encoded.text.lower,
              encoded.tokens.attention_mask,
              {at::cat({own, negatives.image_index, own}), at::cat({own, own, negatives.text_index})},
              {encoded.image.attended, encoded.text.attended}};
    }
    losses::QueueView queue;
    if (encoded.queue) queue = *encoded.queue;
    at::Tensor images = encoded.image.tokens;
    // Every image takes the rounding of the queue, or it would give away which ones are negatives.
    if (encoded.queue) images = images.to(at::kBFloat16).to(images.scalar_type());
    const at::Tensor negative_images =
        losses::candidate_rows(collectives.all_gather(images), queue.image_tokens, negatives.image_index);
    at::Tensor negative_ids =
        losses::candidate_rows(collectives.all_gather(context_.padded(encoded.tokens.input_ids)),
                               queue.token_ids, negatives.text_index);
    at::Tensor negative_mask = negative_ids.ne(context_.pad_id);
    // From here on nothing is gathered: each rank's texts are as long as the longest of its own and its
    // negatives.
    const std::int64_t length = std::max(encoded.tokens.input_ids.size(1), longest_text(negative_mask));
    negative_ids = negative_ids.slice(1, 0, length);
    negative_mask = negative_mask.slice(1, 0, length);
    // Texts from elsewhere are encoded here, with today's weights.
    const at::Tensor lower = context_.padded(encoded.text.lower, length);
    const at::Tensor negative_lower =
        context_.model.lower_text({negative_ids, negative_mask}).to(lower.scalar_type());
    const at::Tensor others = own + encoded.size();
    return {at::cat({images, negative_images}),
            at::cat({lower, negative_lower}),
            at::cat({context_.padded(encoded.tokens.attention_mask, length), negative_mask}),
            {at::cat({own, others, own}), at::cat({own, own, others})},
            {}};
  }

  void add_accuracies(const losses::ItmLossValue& itm, bool with_queue, Metrics& metrics) const {
    const auto add = [&](const char* name, const losses::Accuracy& accuracy) {
      // Where none was drawn from a source there is no accuracy: NaN here, null in metrics.jsonl.
      const at::Tensor share =
          context_.mean_over_ranks(accuracy.correct, accuracy.count)
              .masked_fill(context_.collectives.all_reduce_sum(accuracy.count) == 0, std::nan(""));
      metrics.emplace_back(name, share);
    };
    add("itm_accuracy_positive", itm.positive);
    add("itm_accuracy_image_from_batch", itm.image_from_batch);
    add("itm_accuracy_text_from_batch", itm.text_from_batch);
    if (!with_queue) return;
    add("itm_accuracy_image_from_queue", itm.image_from_queue);
    add("itm_accuracy_text_from_queue", itm.text_from_queue);
  }
};

ObjectiveMemory itm_memory(const PassMemory& memory) {
  const KeptActivations& passes = memory.passes;
  double kept = 3 * passes.fused();
  if (memory.has_queue) {
    // Negatives come from elsewhere: there are twice as many images and texts, and the texts are encoded.
    kept += 2 * passes.shared_by_pairs(/*with_self_attention=*/true) + passes.lower_text();
  } else {
    kept += passes.shared_by_pairs(/*with_self_attention=*/false);
  }
  return {.kept = kept,
          .backward = 3 * passes.fused_backward(),
          .cast_weights = memory.fusion + (memory.has_queue ? memory.language : memory.upper_language)};
}

}  // namespace

ObjectiveEntry itm_objective() {
  return {.name = "itm",
          .reads = {.bidirectional_text = true, .queue = true, .queue_payload = true},
          .make = make_objective<ItmObjective>,
          .memory = itm_memory};
}

}  // namespace tessera::objectives
