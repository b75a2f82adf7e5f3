#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>

namespace tessera::vision {

/// What the rest of Tessera knows of an image encoder: pixels in, tokens out, where the patches start.
class VisionEncoder : public torch::nn::Module {
 public:
  /// @param pixels [B, 3, H, W] float, normalised with the encoder's mean and deviation
  /// @return [B, 1+R+P, C]: the pooled token, R registers, P patches row by row
  virtual at::Tensor forward(const at::Tensor& pixels) = 0;

  virtual std::int64_t hidden_size() const = 0;  ///< C
  virtual std::int64_t first_patch() const = 0;  ///< 1+R
  virtual std::int64_t patch_size() const = 0;   ///< pixels along a patch's side

  /// Moves the output's scale and offset so that what had this mean and deviation by channel has 0 and 1.
  /// @param mean, deviation [C]
  virtual void standardise_output(const at::Tensor& mean, const at::Tensor& deviation) = 0;

  /// Gives the backbone's parameters a gradient or takes it from them; adapters are left alone, and so is
  /// what the forward pass never reads.
  virtual void set_backbone_trainable(bool trainable) = 0;
};

}  // namespace tessera::vision
