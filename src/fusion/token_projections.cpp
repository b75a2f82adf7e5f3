#include "fusion/token_projections.h"

#include <ATen/ATen.h>

#include "fusion/pooling.h"

namespace tessera::fusion {

TokenProjectionsImpl::TokenProjectionsImpl(const TokenProjectionsOptions& options) {
  image_projection_ =
      register_module("image_projection", nn::drawn_linear(options.image_size, options.token_size));
  text_projection_ =
      register_module("text_projection", nn::drawn_linear(options.text_size, options.token_size));
}

at::Tensor TokenProjectionsImpl::patches(const at::Tensor& tokens) {
  return unit_length(image_projection_->forward(tokens.slice(1, 1)));
}

at::Tensor TokenProjectionsImpl::text_tokens(const at::Tensor& hidden_states) {
  return unit_length(text_projection_->forward(hidden_states));
}

}  // namespace tessera::fusion
