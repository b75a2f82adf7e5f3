#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

#include "nn/linear.h"
#include "vision/vision_config.h"

namespace tessera::vision {

/// Narrows an encoder's tokens: Linear, ReLU, Dropout, Linear, LayerNorm. Parameters are named as in a
/// Sequential of these (0.weight, 3.weight, 4.weight), and initialised as LibTorch does from the global
/// generator.
class FeatureCompressorImpl : public torch::nn::Module {
 public:
  /// @param input_size  width of the encoder's tokens
  FeatureCompressorImpl(std::int64_t input_size, const CompressorConfig& config);

  /// @param hidden_states [B, N, input]
  /// @return [B, N, output]
  at::Tensor forward(const at::Tensor& hidden_states);

 private:
  std::int64_t input_size_;
  CompressorConfig config_;
  nn::Linear in_{nullptr};
  nn::Linear out_{nullptr};
  torch::nn::LayerNorm norm_{nullptr};
};
TORCH_MODULE(FeatureCompressor);

}  // namespace tessera::vision
