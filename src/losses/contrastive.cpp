#include "losses/contrastive.h"

#include <ATen/ATen.h>

namespace tessera::losses {

at::Tensor QueueView::share_in_use() const { return usable.to(at::kFloat).mean(); }

at::Tensor in_full_precision(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? tensor : tensor.to(at::kFloat);
}

void check_batch(const char* caller, const at::Tensor& image, const at::Tensor& text,
                 const at::Tensor& image_ids, const at::Tensor& temperature) {
  TORCH_CHECK(image.dim() == 2 && image.size(0) > 0, caller, ": image must be [B >= 1, D], got ",
              image.sizes());
  TORCH_CHECK(text.sizes() == image.sizes(), caller, ": text must be like image ", image.sizes(), ", got ",
              text.sizes());
  TORCH_CHECK(
      image_ids.dim() == 1 && image_ids.size(0) == image.size(0) && image_ids.scalar_type() == at::kLong,
      caller, ": image_ids must be [", image.size(0), "] int64, got ", image_ids.sizes(), " ",
      image_ids.scalar_type());
  TORCH_CHECK(temperature.dim() == 0, caller, ": temperature must be 0-dim, got ", temperature.sizes());
}

void check_queue(const char* caller, const QueueView& queue, std::int64_t width) {
  TORCH_CHECK(queue.image.dim() == 2 && queue.image.size(1) == width, caller, ": queue.image must be [Q, ",
              width, "], got ", queue.image.sizes());
  TORCH_CHECK(queue.text.sizes() == queue.image.sizes(), caller, ": queue.text must be like queue.image ",
              queue.image.sizes(), ", got ", queue.text.sizes());
  const at::IntArrayRef slots = queue.image.sizes().slice(0, 1);
  TORCH_CHECK(queue.image_ids.sizes() == slots && queue.image_ids.scalar_type() == at::kLong, caller,
              ": queue.image_ids must be ", slots, " int64, got ", queue.image_ids.sizes());
  for (const at::Tensor& counts : {queue.usable, queue.filled_slots()}) {
    TORCH_CHECK(counts.sizes() == slots && counts.scalar_type() == at::kBool, caller,
                ": queue.usable and queue.filled must be ", slots, " bool, got ", counts.sizes());
  }
}

at::Tensor with_queued(const at::Tensor& batch, const at::Tensor& queued, const at::Tensor& counts) {
  const at::Tensor kept = queued.to(batch.scalar_type()).masked_fill(counts.logical_not().unsqueeze(1), 0);
  return at::cat({batch, kept});
}

at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& positive) {
  // The zeros put over the log-probabilities of non-positives keep 0 · (-inf) out of the sum.
  const at::Tensor of_positives = logits.log_softmax(1).masked_fill(positive.logical_not(), 0).sum(1);
  return -(of_positives / positive.sum(1).clamp_min(1)).sum();
}

}  // namespace tessera::losses
