#include "fusion/match_head.h"

#include <ATen/ATen.h>

#include <cmath>

#include "fusion/pooling.h"

namespace tessera::fusion {

MatchHeadImpl::MatchHeadImpl(const MatchHeadOptions& options) {
  image_pooler_ =
      register_module("image_pooler", nn::drawn_linear(2 * options.image_size, options.image_size));
  text_pooler_ = register_module("text_pooler", nn::drawn_linear(2 * options.text_size, options.text_size));
  classifier_ = register_module("classifier", nn::drawn_linear(options.image_size + options.text_size, 2));
}

at::Tensor MatchHeadImpl::forward(const at::Tensor& image, const at::Tensor& text,
                                  const at::Tensor& attention_mask) {
  const at::Tensor pooled_image = image_pooler_->forward(pooled_image_tokens(image)).tanh();
  const at::Tensor pooled_text =
      text_pooler_->forward(at::cat({text.select(1, 0), masked_mean(text, attention_mask)}, -1)).tanh();
  const at::Tensor logits = classifier_->forward(at::cat({pooled_image, pooled_text}, -1));
  return logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
}

}  // namespace tessera::fusion
