#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <optional>
#include <utility>

#include "nn/linear.h"
#include "nn/linear_group.h"
#include "nn/packed_tensors.h"
#include "vision/dinov2_config.h"
#include "vision/vision_config.h"

namespace tessera::vision {

// The modules that DINOv2 is made of, named so that the parameters carry Hugging Face's (legacy) keys (but
// for SwiGLU's two inner products: dinov2_names.h). Parameters are zero (norms one) until initialise_random
// or a loader fills them.

/// Position embeddings for an image of height × width pixels: [1, 1+P, C], the pooled token's first. They are
/// interpolated (bicubic, float32) unless the image has the grid that they were made for and is square.
///
/// @param position_embeddings [1, 1+G², C]
/// @param variant  kScaleFactor: facebookresearch/dinov2's hub models, scale (n + 0.1) / G;
///                 kSize: transformers' Dinov2Model; kSizeAntialias: register models. The three differ by a
///                 lot.
/// @throws c10::Error where variant is kAuto, or the number of positions is no square
at::Tensor interpolate_positions(const at::Tensor& position_embeddings, std::int64_t height,
                                 std::int64_t width, std::int64_t patch_size, PositionInterpolation variant);

/// patch_embeddings.projection: a convolution whose stride is its kernel, computed as one matrix product.
class PatchProjectionImpl : public torch::nn::Module {
 public:
  explicit PatchProjectionImpl(const Dinov2Config& config);
  /// @param pixels [B, 3, H, W]; pixels beyond the last whole patch are left out
  /// @return [B, P, C], row by row
  at::Tensor forward(const at::Tensor& pixels);

  at::Tensor weight;  ///< [C, 3, patch, patch]
  at::Tensor bias;    ///< [C]

 private:
  std::int64_t patch_size_;
};
TORCH_MODULE(PatchProjection);

/// pixels → [B, 1+R+P, C]: patches, the pooled token before them, positions added, registers between the two.
class Dinov2EmbeddingsImpl : public torch::nn::Module {
 public:
  Dinov2EmbeddingsImpl(const Dinov2Config& config, PositionInterpolation variant);
  at::Tensor forward(const at::Tensor& pixels);

  at::Tensor cls_token;            ///< [1, 1, C]
  at::Tensor mask_token;           ///< [1, C]; carried for the file's sake, read by no forward pass
  at::Tensor position_embeddings;  ///< [1, 1+G², C]
  at::Tensor register_tokens;      ///< [1, R, C]; undefined without registers

 private:
  std::int64_t patch_size_;
  PositionInterpolation variant_;
  PatchProjection projection_{nullptr};
};
TORCH_MODULE(Dinov2Embeddings);

/// Multi-head self-attention, [B, N, C] → [B, N, C]. Query, key and value are one product where they are
/// frozen (nn/linear_group.h).
class Dinov2AttentionImpl : public nn::PackedModule {
 public:
  explicit Dinov2AttentionImpl(const Dinov2Config& config);
  at::Tensor forward(const at::Tensor& hidden_states);

  bool is_one_product() const { return query_key_value_.is_one_product(); }

 private:
  void pack() override { query_key_value_.pack(); }

  std::int64_t heads_;
  nn::Linear query_, key_, value_, dense_;
  nn::LinearGroup query_key_value_;
};
TORCH_MODULE(Dinov2Attention);

/// fc2(gelu(fc1 x)), or with use_swiglu_ffn weights_out(silu(gate_proj x) · up_proj x), whose inner two are
/// one product where nothing of them trains.
class Dinov2MlpImpl : public nn::PackedModule {
 public:
  explicit Dinov2MlpImpl(const Dinov2Config& config);
  at::Tensor forward(const at::Tensor& hidden_states);

 private:
  void pack() override {
    if (gate_up_) gate_up_->pack();
  }
  std::pair<at::Tensor, at::Tensor> gate_and_up(const at::Tensor& hidden_states);

  nn::Linear in_{nullptr};  ///< fc1 or gate_proj
  nn::Linear up_{nullptr};
  nn::Linear out_{nullptr};
  std::optional<nn::LinearGroup> gate_up_;
};
TORCH_MODULE(Dinov2Mlp);

/// λ of a residual branch: layer_scale1.lambda1.
class LayerScaleImpl : public torch::nn::Module {
 public:
  explicit LayerScaleImpl(std::int64_t features);
  /// residual + λ·branch, in one pass.
  at::Tensor forward(const at::Tensor& residual, const at::Tensor& branch);

  at::Tensor lambda1;  ///< [C]
};
TORCH_MODULE(LayerScale);

/// x += λ₁·attention(norm1 x); x += λ₂·mlp(norm2 x).
class Dinov2LayerImpl : public torch::nn::Module {
 public:
  explicit Dinov2LayerImpl(const Dinov2Config& config);
  at::Tensor forward(const at::Tensor& hidden_states);

 private:
  torch::nn::LayerNorm norm1_{nullptr};
  Dinov2Attention attention_{nullptr};
  LayerScale layer_scale1_{nullptr};
  torch::nn::LayerNorm norm2_{nullptr};
  Dinov2Mlp mlp_{nullptr};
  LayerScale layer_scale2_{nullptr};
};
TORCH_MODULE(Dinov2Layer);

}  // namespace tessera::vision
