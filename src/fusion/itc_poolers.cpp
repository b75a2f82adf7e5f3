#include "fusion/itc_poolers.h"

#include "fusion/pooling.h"

namespace tessera::fusion {

ItcPoolersImpl::ItcPoolersImpl(const ItcPoolersOptions& options) {
  image_projection_ =
      register_module("image_projection", nn::drawn_linear(2 * options.image_size, options.embedding_size));
  text_projection_ =
      register_module("text_projection", nn::drawn_linear(options.text_size, options.embedding_size));
}

at::Tensor ItcPoolersImpl::image(const at::Tensor& tokens) {
  return unit_length(image_projection_->forward(pooled_image_tokens(tokens)));
}

at::Tensor ItcPoolersImpl::text(const at::Tensor& hidden_states, const at::Tensor& attention_mask) {
  return unit_length(text_projection_->forward(masked_mean(hidden_states, attention_mask)));
}

}  // namespace tessera::fusion
