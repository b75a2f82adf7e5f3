#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vision/dinov2_config.h"
#include "vision/dinov2_layers.h"
#include "vision/encoder.h"
#include "vision/vision_config.h"

namespace tessera::vision {

struct EncoderFamily;

/// DINOv2 (Oquab et al. 2023; registers: Darcet et al. 2023) as Hugging Face's Dinov2Model and
/// Dinov2WithRegistersModel compute it. Parameter names are the keys of their files
/// ("encoder.layer.0.attention.attention.query.weight", …).
///
/// Every parameter but the mask token requires a gradient after construction. Parameters are zero (norms one)
/// until initialise_random or load_file_tensors fills them.
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
  /// Pixels beyond the last whole patch are left out.
  PatchGrid grid(std::int64_t height, std::int64_t width) const override {
    return {height / config_.patch_size, width / config_.patch_size};
  }
  const lora::ModuleNames& module_names() const override;
  /// In the final norm's weight and bias, so that the files say it too.
  void standardise_output(const at::Tensor& mean, const at::Tensor& deviation) override;
  void set_backbone_trainable(bool trainable) override;
  void set_gradient_checkpointing(bool on) override { gradient_checkpointing_ = on; }
  EncoderActivations activations(std::int64_t height, std::int64_t width,
                                 const Compute& compute) const override;

  nlohmann::json config_json() const override;
  HuggingFaceClass hugging_face_class() const override {
    return {config_.hugging_face_class(), config_.hugging_face_module()};
  }
  /// As facebook evaluated it.
  Preprocessing preprocessing() const override { return {}; }
  /// Under legacy keys.
  TensorMap file_tensors() const override;
  /// Keys may be legacy or those of transformers 5's modules, with or without the prefix of a wrapper class
  /// ("dinov2.", "dinov2_with_registers."), whose classifier is left out. A mask token may be absent and
  /// becomes zero.
  void load_file_tensors(const TensorMap& tensors, const std::string& source) override;

  /// With the interpolation that was resolved.
  const Dinov2Config& config() const { return config_; }
  PositionInterpolation interpolation() const { return interpolation_; }

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

/// DINOv2 among the encoders: config.json's of both classes, and facebookresearch/dinov2's files, whose
/// configuration follows from their shapes (facebook_weights.h); kAuto then means what facebook's hub does.
EncoderFamily dinov2_family();

}  // namespace tessera::vision
