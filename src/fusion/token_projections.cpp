#include "fusion/token_projections.h"

#include <ATen/ATen.h>

#include "fusion/pooling.h"
#include "ops/linear.h"

namespace tessera::fusion {

TokenProjectionsImpl::TokenProjectionsImpl(const TokenProjectionsOptions& options) {
  image_projection_ =
      register_module("image_projection", torch::nn::Linear(options.image_size, options.token_size));
  text_projection_ =
      register_module("text_projection", torch::nn::Linear(options.text_size, options.token_size));
}

at::Tensor TokenProjectionsImpl::patches(const at::Tensor& tokens) {
  return unit_length(ops::linear(tokens.slice(1, 1), image_projection_));
}

at::Tensor TokenProjectionsImpl::text_tokens(const at::Tensor& hidden_states) {
  return unit_length(ops::linear(hidden_states, text_projection_));
}

}  // namespace tessera::fusion
