#include "language/language_decode_step.h"

#include <ATen/ATen.h>

#include <utility>

namespace tessera::language {

LanguageDecodeStep::LanguageDecodeStep(LanguageModel model)
    : model_(std::move(model)), caches_(static_cast<std::size_t>(model_->num_layers())) {}

at::Tensor LanguageDecodeStep::next_logits(const at::Tensor& input_ids) {
  const at::NoGradGuard no_grad;
  at::Tensor hidden = model_->embed(input_ids.to(model_->embedding().device()));
  const DecoderContext context =
      model_->context({}, input_ids.size(1), AttentionMode::kCausal, caches_.front().length());
  for (std::int64_t i = 0; i < model_->num_layers(); ++i) {
    hidden = model_->layer(i).forward(hidden, context, &caches_[static_cast<std::size_t>(i)]);
  }
  return model_->logits(model_->final_norm(hidden.select(1, -1))).to(at::kFloat);
}

void LanguageDecodeStep::reorder(const at::Tensor& rows) {
  const at::NoGradGuard no_grad;
  const at::Tensor on_device = rows.to(model_->embedding().device());
  for (KeyValueCache& cache : caches_) cache.reorder(on_device);
}

std::int64_t LanguageDecodeStep::max_length() const { return model_->config().max_position_embeddings; }

}  // namespace tessera::language
