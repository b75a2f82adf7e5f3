#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/safetensors.h"
#include "lora/adaptable_module.h"

namespace tessera::vision {

/// How many patches an image has.
struct PatchGrid {
  std::int64_t rows = 0;
  std::int64_t columns = 0;

  std::int64_t patches() const { return rows * columns; }
};

/// The Python class that computes what an encoder does, as PEFT's files name it (auto_mapping).
struct HuggingFaceClass {
  std::string name;    ///< "Dinov2Model"
  std::string module;  ///< "transformers.models.dinov2.modeling_dinov2"
};

/// What preprocessor_config.json says: shortest edge (bicubic), centre crop, mean and deviation.
struct Preprocessing {
  std::int64_t crop_size = 224;
  std::int64_t shortest_edge = 256;
  std::vector<double> image_mean = {0.485, 0.456, 0.406};
  std::vector<double> image_std = {0.229, 0.224, 0.225};
};

/// What an encoder keeps of an image for its backward pass, in bytes, as its modules and adapters are.
struct EncoderActivations {
  double kept = 0;     ///< after its forward pass; with gradient checkpointing the blocks' inputs alone
  double block = 0;    ///< with gradient checkpointing: of one block, while it is computed again backwards
  double passing = 0;  ///< at most at once in its forward pass where nothing is kept
};

/// What the rest of Tessera knows of an image encoder: pixels in, tokens out, which of these are patches,
/// what its files hold, what training it costs. Which encoders there are is in encoder_families.h.
class VisionEncoder : public lora::AdaptableModule {
 public:
  /// @param pixels [B, 3, H, W] float, normalised with the encoder's mean and deviation
  /// @return [B, F+P, C]: F tokens that are no patches (a pooled one first, then registers; or none), P
  /// patches row by row
  virtual at::Tensor forward(const at::Tensor& pixels) = 0;

  virtual std::int64_t hidden_size() const = 0;  ///< C
  virtual std::int64_t first_patch() const = 0;  ///< F; 0 where there is no pooled token
  virtual std::int64_t patch_size() const = 0;   ///< pixels that an image's sides are multiples of
  /// The patches of an image of so many pixels.
  virtual PatchGrid grid(std::int64_t height, std::int64_t width) const = 0;
  /// What stands for the whole image. Unless an encoder says otherwise its first token, or where it has none
  /// but patches (F = 0) their mean.
  /// @param tokens [B, F+P, C], of forward
  /// @return [B, 1, C]
  virtual at::Tensor pooled(const at::Tensor& tokens) const;

  /// Moves the output's scale and offset so that what had this mean and deviation by channel has 0 and 1.
  /// @param mean, deviation [C]
  virtual void standardise_output(const at::Tensor& mean, const at::Tensor& deviation) = 0;

  /// Gives the backbone's parameters a gradient or takes it from them; adapters are left alone, and so is
  /// what the forward pass never reads.
  virtual void set_backbone_trainable(bool trainable) = 0;
  /// Keeps of each block its input alone for the backward pass, which computes the rest again: less memory, a
  /// half more time (nn/checkpointed.h).
  virtual void set_gradient_checkpointing(bool on) = 0;
  /// What an image of so many pixels costs in a training step, as the encoder is now.
  virtual EncoderActivations activations(std::int64_t height, std::int64_t width,
                                         const Compute& compute) const = 0;

  /// A config.json that transformers reads. Its model_type is one of the encoder's family, which makes an
  /// encoder of the same shape from it.
  virtual nlohmann::json config_json() const = 0;
  virtual HuggingFaceClass hugging_face_class() const = 0;
  /// How images are prepared where no preprocessor_config.json says it.
  virtual Preprocessing preprocessing() const = 0;
  /// The backbone's parameters under the keys of its files, without adapters; the tensors themselves, not
  /// copies.
  virtual TensorMap file_tensors() const = 0;
  /// Copies tensors, under any keys that its files may have, into the backbone. Nothing is written where
  /// anything is wrong.
  /// @param source  names the file in messages
  /// @throws Error listing the tensors that are missing, unexpected, of another shape or not finite
  virtual void load_file_tensors(const TensorMap& tensors, const std::string& source) = 0;
};

}  // namespace tessera::vision
