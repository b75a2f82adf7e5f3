#include "fusion/fused_decode_step.h"

#include <ATen/ATen.h>

#include <utility>

#include "core/error.h"
#include "core/finite.h"

namespace tessera::fusion {

FusedDecodeStep::FusedDecodeStep(language::LanguageModel language, FusionTower tower,
                                 const CaptionCondition& condition)
    : language_(std::move(language)),
      tower_(std::move(tower)),
      caches_(static_cast<std::size_t>(language_->num_layers())) {
  const at::NoGradGuard no_grad;
  keys_ = tower_->caption_keys(condition);
}

at::Tensor FusedDecodeStep::next_logits(const at::Tensor& input_ids) {
  const at::NoGradGuard no_grad;
  TORCH_CHECK(input_ids.size(0) == keys_.front().key_value.size(0), "decoding: a text for each of ",
              keys_.front().key_value.size(0), " conditions expected, got ", input_ids.size(0));
  const language::DecoderContext context =
      language_->context({}, input_ids.size(1), language::AttentionMode::kCausal, caches_.front().length());
  const at::Tensor lower =
      tower_->lower_text(language_, input_ids.to(language_->embedding().device()), context, &caches_);
  const at::Tensor attended = tower_->attended_text(language_, lower, context, &caches_);
  const at::Tensor hidden = tower_->conditioned_text(language_, attended, context, keys_, &caches_);
  const at::Tensor logits = language_->logits(hidden.select(1, -1)).to(at::kFloat);
  // A search over them would choose something all the same.
  if (!is_finite(logits)) {
    fail(
        "decoding: the next token's logits are not finite ({}): the model's weights are too large, or not of "
        "one model",
        what_is_not_finite(logits));
  }
  return logits;
}

void FusedDecodeStep::reorder(const at::Tensor& rows) {
  const at::NoGradGuard no_grad;
  const at::Tensor on_device = rows.to(language_->embedding().device());
  for (ContextKeys& keys : keys_) keys = keys.select(on_device);
  for (language::KeyValueCache& cache : caches_) cache.reorder(on_device);
}

std::int64_t FusedDecodeStep::max_length() const { return language_->config().max_position_embeddings; }

}  // namespace tessera::fusion
