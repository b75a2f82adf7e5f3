#include "vision/compressor.h"

#include <ATen/ATen.h>

#include "ops/activations.h"

namespace tessera::vision {

FeatureCompressorOptions FeatureCompressorOptions::from_config(const CompressorConfig& config,
                                                               std::int64_t input_size) {
  return {.input_size = input_size,
          .hidden_size = config.hidden_size,
          .output_size = config.output_size,
          .dropout = config.dropout};
}

FeatureCompressorImpl::FeatureCompressorImpl(const FeatureCompressorOptions& options) : options_(options) {
  in_ = register_module("0", nn::drawn_linear(options.input_size, options.hidden_size));
  out_ = register_module("3", nn::drawn_linear(options.hidden_size, options.output_size));
  norm_ = register_module("4", torch::nn::LayerNorm(torch::nn::LayerNormOptions({options.output_size})));
}

at::Tensor FeatureCompressorImpl::forward(const at::Tensor& hidden_states) {
  TORCH_CHECK(hidden_states.dim() == 3 && hidden_states.size(2) == options_.input_size,
              "feature compressor: hidden_states [B, N, ", options_.input_size, "] expected, got ",
              hidden_states.sizes());
  // In two dimensions the product is no view, so that ReLU can take its place.
  const at::Tensor rows = hidden_states.reshape({-1, options_.input_size});
  at::Tensor inner = in_->forward(rows).relu_();
  if (is_training() && options_.dropout > 0) {
    inner = ops::dropout(inner, options_.dropout);
  }
  return norm_->forward(out_->forward(inner))
      .view({hidden_states.size(0), hidden_states.size(1), options_.output_size});
}

}  // namespace tessera::vision
