#pragma once

#include <torch/nn/module.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/device.h"
#include "fusion/itc_poolers.h"
#include "language/language_model.h"
#include "language/tokenizer.h"
#include "losses/itc.h"
#include "vision/compressor.h"
#include "vision/encoder.h"
#include "vision/lora.h"

namespace tessera::model {

/// The parts a parameter can belong to: a row of the parameter table, and a learning-rate group.
enum class Part { kBackbone, kLora, kCompressor, kLanguage, kHeads, kTemperature };

/// "backbone", "lora", … as the log, the table and metrics.jsonl name them.
const char* part_name(Part part);

struct NamedParameter {
  std::string name;
  at::Tensor tensor;
  Part part;
};

struct ImageFeatures {
  at::Tensor tokens;     ///< [B, 1+P, D] compressed tokens, [CLS] first, registers left out
  at::Tensor embedding;  ///< [B, E] float32, L2-normalised
};

struct TextFeatures {
  at::Tensor hidden_states;   ///< [B, T, C] after the final norm, bidirectional
  at::Tensor attention_mask;  ///< [B, T] bool
  at::Tensor embedding;       ///< [B, E] float32, L2-normalised
};

/// The parts that a model is composed of; see model/build.h for making them from a configuration or a
/// checkpoint.
struct Stage1Parts {
  std::shared_ptr<vision::VisionEncoder> vision;
  vision::FeatureCompressor compressor{nullptr};
  language::LanguageModel language{nullptr};
  fusion::ItcPoolers poolers{nullptr};
  std::shared_ptr<losses::Temperature> itc_temperature;
  std::vector<double> image_mean;
  std::vector<double> image_std;
  TrainableChoice trainable = TrainableChoice::kLora;
  std::optional<vision::LoraOptions> lora;  ///< set where the backbone carries adapters
};

/// The vision-language model: DINOv2 with LoRA → compressor → poolers on one side, the language model run
/// bidirectionally → poolers on the other. Depends on nothing of training.
class Stage1Model : public torch::nn::Module {
 public:
  explicit Stage1Model(Stage1Parts parts);

  /// Pass 1 and the unfused image pass.
  /// @param pixels [B, 3, H, W] uint8 RGB
  ImageFeatures encode_image(const at::Tensor& pixels);
  /// The unfused text pass.
  TextFeatures encode_text(const language::TokenBatch& tokens);

  /// ITC temperature τ, 0-dim float32.
  at::Tensor itc_temperature() { return itc_temperature_->value(); }

  /// Freezes or unfreezes the adapters. Frozen adapters get no gradient, and the encoder then runs without
  /// recording one.
  void set_lora_trainable(bool trainable);
  bool has_lora() const { return lora_.has_value(); }

  /// Training mode with what is frozen in evaluation mode: no dropout runs inside a frozen encoder.
  void set_training(bool training);

  /// Every parameter once, in the order of registration, with its part.
  std::vector<NamedParameter> named_parts() const;
  /// Number of parameters that get a gradient.
  std::int64_t trainable_parameters() const;

  vision::VisionEncoder& vision() const { return *vision_; }
  language::LanguageModel language() const { return language_; }
  const std::optional<vision::LoraOptions>& lora() const { return lora_; }
  TrainableChoice trainable() const { return trainable_; }

 private:
  bool encoder_needs_gradient() const;

  std::shared_ptr<vision::VisionEncoder> vision_;
  vision::FeatureCompressor compressor_{nullptr};
  language::LanguageModel language_{nullptr};
  fusion::ItcPoolers poolers_{nullptr};
  std::shared_ptr<losses::Temperature> itc_temperature_;
  at::Tensor pixel_scale_;   ///< [1,3,1,1], 1 / (255 std)
  at::Tensor pixel_offset_;  ///< [1,3,1,1], −mean / std
  TrainableChoice trainable_;
  std::optional<vision::LoraOptions> lora_;
};

}  // namespace tessera::model
