#include "vision/compressor.h"

#include <ATen/ATen.h>

#include "ops/activations.h"

namespace tessera::vision {

FeatureCompressorImpl::FeatureCompressorImpl(std::int64_t input_size, const CompressorConfig& config)
    : input_size_(input_size), config_(config) {
  in_ = register_module("0", nn::drawn_linear(input_size, config.hidden_size));
  out_ = register_module("3", nn::drawn_linear(config.hidden_size, config.output_size));
  norm_ = register_module("4", torch::nn::LayerNorm(torch::nn::LayerNormOptions({config.output_size})));
}

at::Tensor FeatureCompressorImpl::forward(const at::Tensor& hidden_states) {
  TORCH_CHECK(hidden_states.dim() == 3 && hidden_states.size(2) == input_size_,
              "feature compressor: hidden_states [B, N, ", input_size_, "] expected, got ",
              hidden_states.sizes());
  // In two dimensions the product is no view, so that ReLU can take its place.
  const at::Tensor rows = hidden_states.reshape({-1, input_size_});
  at::Tensor inner = in_->forward(rows).relu_();
  if (is_training() && config_.dropout > 0) {
    inner = ops::dropout(inner, config_.dropout);
  }
  return norm_->forward(out_->forward(inner))
      .view({hidden_states.size(0), hidden_states.size(1), config_.output_size});
}

}  // namespace tessera::vision
