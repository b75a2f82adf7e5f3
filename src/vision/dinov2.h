#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/config.h"
#include "vision/dinov2_config.h"
#include "vision/dinov2_layers.h"
#include "vision/encoder.h"

namespace tessera::vision {

/// DINOv2 (Oquab et al. 2023; registers: Darcet et al. 2023) as Hugging Face's Dinov2Model and
/// Dinov2WithRegistersModel compute it. Parameter names are the keys of their files
/// ("encoder.layer.0.attention.attention.query.weight", …).
///
/// Every parameter but the mask token requires a gradient after construction. Parameters are zero (norms one)
/// until initialise_random or a loader of dinov2_weights.h fills them.
class Dinov2Model : public VisionEncoder {
 public:
  /// @param interpolation  kAuto: as the configuration says, or else as transformers does for that class
  /// (kSizeAntialias with registers, else kSize)
  /// @throws Error naming the field where the configuration isn't sound
  explicit Dinov2Model(const Dinov2Config& config,
                       PositionInterpolation interpolation = PositionInterpolation::kAuto);

  /// last_hidden_state: [B, 3, H, W] → [B, 1+R+P, C], after the final norm. Token 0 is the pooled one.
  at::Tensor forward(const at::Tensor& pixels) override;

  /// The tokens before the first block, same shape.
  at::Tensor embed(const at::Tensor& pixels) { return embeddings_->forward(pixels); }

  std::int64_t hidden_size() const override { return config_.hidden_size; }
  std::int64_t first_patch() const override { return 1 + config_.num_register_tokens; }
  std::int64_t patch_size() const override { return config_.patch_size; }
  void set_backbone_trainable(bool trainable) override;
  /// In the final norm's weight and bias, so that the files say it too.
  void standardise_output(const at::Tensor& mean, const at::Tensor& deviation) override;

  /// With the interpolation that was resolved.
  const Dinov2Config& config() const { return config_; }
  PositionInterpolation interpolation() const { return interpolation_; }
  /// Keeps of each block its input alone for the backward pass, which computes the rest again: less memory, a
  /// half more time (checkpointed.h).
  void set_gradient_checkpointing(bool on) { gradient_checkpointing_ = on; }

 private:
  Dinov2Config config_;
  PositionInterpolation interpolation_;
  bool gradient_checkpointing_ = false;
  Dinov2Embeddings embeddings_{nullptr};
  std::vector<Dinov2Layer> layers_;
  torch::nn::LayerNorm layernorm_{nullptr};
};

/// Fills a model at random, the same for a seed everywhere: matrices with deviation 1/√fan-in, position
/// embeddings, pooled and register tokens with 0.5 (with the 0.02 of Hugging Face's initialiser nothing about
/// where things are survives a frozen random encoder), biases and the mask token 0, norms 1 and 0, layer
/// scales layerscale_value. Adapters are left alone.
void initialise_random(Dinov2Model& model, std::uint64_t seed);

}  // namespace tessera::vision
