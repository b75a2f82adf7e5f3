#include "language/next_token_loss.h"

#include <ATen/ATen.h>

namespace tessera::language {

at::Tensor next_token_labels(const TokenBatch& tokens) {
  at::Tensor labels = tokens.input_ids.masked_fill(tokens.attention_mask.logical_not(), kIgnoreIndex);
  // What was cut is as long as a text may be, so that its eos is in the last column.
  if (tokens.is_cut.defined()) labels.select(1, -1).masked_fill_(tokens.is_cut, kIgnoreIndex);
  return labels;
}

NextTokenLoss next_token_loss(const at::Tensor& logits, const at::Tensor& labels) {
  TORCH_CHECK(
      logits.dim() == 3 && labels.scalar_type() == at::kLong && labels.sizes() == logits.sizes().slice(0, 2),
      "logits is [B, T, V] and labels [B, T] int64, got ", logits.sizes(), " and ", labels.sizes(), " ",
      labels.scalar_type());
  const std::int64_t batch = labels.size(0);
  // The labels are shifted and the logits left whole: a slice of the logits would be copied, and they are by
  // far the larger.
  const at::Tensor targets =
      at::cat({labels.slice(1, 1), labels.new_full({batch, 1}, kIgnoreIndex)}, 1).reshape({-1});
  const auto dtype = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor sum = at::cross_entropy_loss(logits.reshape({-1, logits.size(2)}).to(dtype), targets, {},
                                                at::Reduction::Sum, kIgnoreIndex);
  NextTokenLoss loss;
  loss.count = targets.ne(kIgnoreIndex).sum();
  loss.value = sum / loss.count.clamp_min(1);
  return loss;
}

}  // namespace tessera::language
