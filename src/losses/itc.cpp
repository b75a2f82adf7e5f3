#include "losses/itc.h"

#include <ATen/ATen.h>

#include <limits>

#include "core/autocast.h"
#include "losses/contrastive.h"

namespace tessera::losses {

namespace {

/// Which candidates a row has and which of them are its targets; the same for both directions.
struct Candidates {
  at::Tensor left_out;  ///< [B, N + Q] bool
  at::Tensor positive;  ///< [B, N + Q] bool
};

/// @param image_ids [B] of the rows
/// @param batch_ids [N] of all ranks
Candidates find_candidates(const at::Tensor& image_ids, const at::Tensor& batch_ids,
                           const std::optional<QueueView>& queue, SameId same_id) {
  const at::Tensor rows = image_ids.unsqueeze(1);
  const at::Tensor same_in_batch = rows == batch_ids;
  if (!queue) {
    return {at::zeros_like(same_in_batch), same_in_batch};
  }
  const at::Tensor same_in_queue = rows == queue->image_ids;
  at::Tensor left_out = queue->usable.logical_not().expand_as(same_in_queue);
  if (same_id == SameId::kIgnore) {
    left_out = left_out.logical_or(same_in_queue);
  }
  const at::Tensor positive_in_queue = same_in_queue.logical_and(left_out.logical_not());
  return {at::cat({at::zeros_like(same_in_batch), left_out}, 1),
          at::cat({same_in_batch, positive_in_queue}, 1)};
}

at::Tensor direction_sum(const at::Tensor& logits, const Candidates& candidates) {
  return cross_entropy_sum(logits.masked_fill(candidates.left_out, -std::numeric_limits<double>::infinity()),
                           candidates.positive);
}

}  // namespace

at::Tensor ItcLossValue::excess() const { return (sum.detach() - log_candidates) / count.clamp_min(1); }

ItcLossValue itc_loss(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                      const std::optional<QueueView>& queue, const at::Tensor& temperature, SameId same_id,
                      Collectives& collectives) {
  check_batch("itc_loss", image, text, image_ids, temperature);
  if (queue) {
    check_queue("itc_loss", *queue, image.size(1));
  }
  // Autocast would take the products to bfloat16, whose steps at a score of 1/τ are as large as the
  // differences learned.
  const NoAutocast no_autocast;

  const at::Tensor images = in_full_precision(image);
  const at::Tensor texts = in_full_precision(text);
  at::Tensor candidate_images = collectives.all_gather(images);
  at::Tensor candidate_texts = collectives.all_gather(texts);
  const Candidates candidates = find_candidates(image_ids, collectives.all_gather(image_ids), queue, same_id);
  if (queue) {
    candidate_images = with_queued(candidate_images, queue->image, queue->usable);
    candidate_texts = with_queued(candidate_texts, queue->text, queue->usable);
  }

  const at::Tensor inverse_temperature = temperature.to(images.scalar_type()).reciprocal();
  const at::Tensor image_to_text = at::matmul(images, candidate_texts.t()) * inverse_temperature;
  const at::Tensor text_to_image = at::matmul(texts, candidate_images.t()) * inverse_temperature;

  ItcLossValue value;
  value.sum = 0.5 * (direction_sum(image_to_text, candidates) + direction_sum(text_to_image, candidates));
  value.count = at::full({}, image.size(0), value.sum.options().requires_grad(false));
  value.log_candidates = candidates.left_out.logical_not().sum(1).to(images.scalar_type()).log().sum();
  return value;
}

}  // namespace tessera::losses
