#include "losses/itm.h"

#include <ATen/ATen.h>

#include "losses/contrastive.h"

namespace tessera::losses {

namespace {

/// @param correct, counted [B] bool
Accuracy accuracy(const at::Tensor& correct, const at::Tensor& counted) {
  return {correct.logical_and(counted).sum().to(at::kFloat), counted.sum().to(at::kFloat)};
}

void check_arguments(const at::Tensor& logits, const HardNegatives& negatives) {
  TORCH_CHECK(logits.dim() == 2 && logits.size(1) == 2 && logits.size(0) % 3 == 0,
              "itm_loss: logits must be [3B, 2], got ", logits.sizes());
  const std::int64_t batch = logits.size(0) / 3;
  for (const at::Tensor& each :
       {negatives.text_index, negatives.image_index, negatives.text_valid, negatives.image_valid}) {
    TORCH_CHECK(each.dim() == 1 && each.size(0) == batch, "itm_loss: negatives must be of ", batch,
                " pairs, got ", each.sizes());
  }
}

}  // namespace

ItmLossValue itm_loss(const at::Tensor& logits, const HardNegatives& negatives,
                      std::int64_t batch_candidates) {
  check_arguments(logits, negatives);
  const std::int64_t batch = logits.size(0) / 3;
  const at::Tensor positive = negatives.text_valid.logical_or(negatives.image_valid);
  const at::Tensor counted = at::cat({positive, negatives.image_valid, negatives.text_valid});

  // Column 1 for the first B rows, column 0 for the others; -log softmax of two is softplus of a difference.
  const at::Tensor margin = in_full_precision(logits.select(1, 1)) - in_full_precision(logits.select(1, 0));
  const at::Tensor cross_entropy =
      at::softplus(at::cat({-margin.narrow(0, 0, batch), margin.narrow(0, batch, 2 * batch)}));
  ItmLossValue value;
  value.sum = cross_entropy.masked_fill(counted.logical_not(), 0).sum();
  value.count = counted.sum().to(value.sum.scalar_type());

  const at::Tensor match = margin.detach() > 0, no_match = margin.detach() < 0;
  const at::Tensor image_queued = negatives.image_index >= batch_candidates;
  const at::Tensor text_queued = negatives.text_index >= batch_candidates;
  const at::Tensor image_rejected = no_match.narrow(0, batch, batch);
  const at::Tensor text_rejected = no_match.narrow(0, 2 * batch, batch);
  value.positive = accuracy(match.narrow(0, 0, batch), positive);
  value.image_from_batch =
      accuracy(image_rejected, negatives.image_valid.logical_and(image_queued.logical_not()));
  value.image_from_queue = accuracy(image_rejected, negatives.image_valid.logical_and(image_queued));
  value.text_from_batch =
      accuracy(text_rejected, negatives.text_valid.logical_and(text_queued.logical_not()));
  value.text_from_queue = accuracy(text_rejected, negatives.text_valid.logical_and(text_queued));
  return value;
}

}  // namespace tessera::losses
