#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "fusion/fusion_inputs.h"
#include "language/tokenizer.h"
#include "model/features.h"

// The modules stand in model/stage1_parts.h: most of what uses a model uses none of them, and their headers
// take longer to compile than most sources.
namespace torch::nn {
class Module;
}
namespace tessera::fusion {
class FusionTower;
}
namespace tessera::language {
class DecodeStep;
class LanguageModel;
}  // namespace tessera::language
namespace tessera::lora {
struct LoraOptions;
enum class TrainableChoice;
}  // namespace tessera::lora
namespace tessera::losses {
struct LossesConfig;
}
namespace tessera::memory {
class EpisodicMemory;
}
namespace tessera::vision {
class VisionEncoder;
}

namespace tessera::model {

/// The parts a parameter can belong to: a row of the parameter table, and a learning-rate group.
enum class Part { kBackbone, kLora, kCompressor, kLanguage, kFusion, kGates, kHeads, kMemory, kTemperature };

/// All of them, in the order of their values.
inline constexpr std::array kParts = {Part::kBackbone, Part::kLora,   Part::kCompressor,
                                      Part::kLanguage, Part::kFusion, Part::kGates,
                                      Part::kHeads,    Part::kMemory, Part::kTemperature};

/// "backbone", "lora", … as the log, the table and metrics.jsonl name them.
const char* part_name(Part part);

struct NamedParameter {
  std::string name;
  at::Tensor tensor;
  Part part;
};

struct Stage1Parts;

/// The vision-language model: an image encoder with LoRA → compressor → image blocks on one side, a language
/// model on the other, joined by FIBER's gated cross-attention; heads for contrast, late interaction and
/// matching; an episodic memory of pairs. One method a pass (docs/model.md). Depends on nothing of training.
class Stage1Model {
 public:
  explicit Stage1Model(Stage1Parts parts);
  ~Stage1Model();
  Stage1Model(const Stage1Model&) = delete;
  Stage1Model& operator=(const Stage1Model&) = delete;

  /// The encoder's tokens, [B, 1+P, width], [CLS] first (VisionEncoder::pooled), registers left out.
  /// @param pixels [B, 3, H, W] uint8 RGB
  at::Tensor encoder_tokens(const at::Tensor& pixels);
  /// Encoder and compressor.
  /// @param pixels [B, 3, H, W] uint8 RGB
  /// @return [B, 1+P, D] compressed tokens
  at::Tensor compress_image(const at::Tensor& pixels);
  /// The unfused image pass over compressed tokens.
  ImageFeatures image_features(const at::Tensor& tokens);
  /// Both.
  ImageFeatures encode_image(const at::Tensor& pixels) { return image_features(compress_image(pixels)); }
  /// The unfused text pass.
  TextFeatures encode_text(const language::TokenBatch& tokens);
  /// The part of it that the fused pass starts from. [B, T, C]
  at::Tensor lower_text(const language::TokenBatch& tokens);

  /// What MaxSim compares: [B, P, S] and [B, T, S] float32, rows of length 1.
  at::Tensor patch_embeddings(const ImageFeatures& image);
  at::Tensor token_embeddings(const TextFeatures& text);

  /// The fused pass over N pairs of I images and J texts, and the matching head.
  /// @param image_tokens   [I, 1+P, D] compressed tokens
  /// @param lower_text     [J, T, C]
  /// @param attention_mask [J, T] bool
  /// @param pairs          undefined: each image with its own text
  /// @param attended       of these images and texts, as far as it is known
  /// @return [N, 2] float32 logits; column 1 is "match"
  at::Tensor match_logits(const at::Tensor& image_tokens, const at::Tensor& lower_text,
                          const at::Tensor& attention_mask, const fusion::PairRows& pairs = {},
                          const fusion::FirstAttention& attended = {});

  /// The part of the causal text pass that no condition reaches: up to the first fused layer's
  /// self-attention. Padding is not masked: no real token is behind it.
  /// @param input_ids [B, T], padded on the right @return [B, T, C]
  at::Tensor unconditioned_text(const at::Tensor& input_ids);
  /// The caption pass: causal text under a condition.
  /// @param text [B, T, C] of unconditioned_text
  /// @return [B, T, V] logits; those at t depend on tokens up to t alone
  at::Tensor caption_logits(const at::Tensor& text, const fusion::CaptionCondition& condition);
  at::Tensor caption_logits(const language::TokenBatch& tokens, const fusion::CaptionCondition& condition) {
    return caption_logits(unconditioned_text(tokens.input_ids), condition);
  }

  /// Token by token, with cached keys and values of both text and image.
  std::unique_ptr<language::DecodeStep> decoder(const fusion::CaptionCondition& condition);

  /// What codes of pairs are made of.
  /// @param image, text null where no row has one
  PairVectors pair_vectors(const ImageFeatures* image, const TextFeatures* text) const;
  /// Codes of B pairs for the episodic memory; rows may lack one of the two.
  /// @param has_image, has_text [B] bool; undefined: every row has what is given
  /// @return [B, code size]
  at::Tensor pair_codes(const PairVectors& pairs, const at::Tensor& has_image = {},
                        const at::Tensor& has_text = {});
  /// Takes pairs into the moments that codes are standardised by (memory/pair_code.h).
  void observe_pairs(const PairVectors& pairs);
  memory::EpisodicMemory memory() const;

  /// Softmax temperatures τ, 0-dim float32.
  at::Tensor itc_temperature();
  at::Tensor maxsim_temperature();

  /// Leaves without gradient what no loss with a weight above 0 reads, so that what counts as trainable does
  /// train. Hard negatives are drawn by ITC's embeddings; without ITC these stay as they were initialised.
  void freeze_unused(const losses::LossesConfig& losses);
  /// Freezes or unfreezes the encoder's adapters. Frozen adapters get no gradient, and the encoder then runs
  /// without recording one. (Those of the language model and of the fusion train throughout.)
  void set_lora_trainable(bool trainable);
  /// Whether the encoder has adapters.
  bool has_lora() const;

  /// Training mode with what is frozen in evaluation mode: no dropout runs inside a frozen encoder.
  void set_training(bool training);
  bool is_training() const;

  /// Moves every parameter and buffer.
  void to(c10::Device device);

  /// The parts as one tree, whose parameters and buffers are named "PART.…".
  torch::nn::Module& module() const;
  /// Every parameter once, in the order of registration.
  std::vector<at::Tensor> parameters() const;
  /// The same with name and part.
  std::vector<NamedParameter> named_parts() const;
  /// Number of parameters that get a gradient.
  std::int64_t trainable_parameters() const;
  /// The gates of the cross-attention, by level: [M] each, without gradient.
  struct Gates {
    at::Tensor text_reads_image;
    at::Tensor image_reads_text;
  };
  Gates gates() const;

  vision::VisionEncoder& vision() const;
  language::LanguageModel language() const;
  fusion::FusionTower fusion() const;
  /// Of the adapters of the encoder, the language model, the fusion; empty: it has none
  /// (model/adaptable_parts.h).
  const std::optional<lora::LoraOptions>& lora() const;
  const std::optional<lora::LoraOptions>& language_lora() const;
  const std::optional<lora::LoraOptions>& fusion_lora() const;
  lora::TrainableChoice trainable() const;

  /// The module that an objective of weight above 0 has for itself (Stage1Parts::objectives).
  torch::nn::Module& objective_module(const std::string& name) const;

 private:
  bool encoder_trains() const;  ///< any of it
  Part part_of(const std::string& parameter) const;

  std::unique_ptr<Stage1Parts> parts_;
  std::shared_ptr<torch::nn::Module> module_;   ///< that the parts are registered with
  std::map<std::string, Part> part_of_module_;  ///< by the names that they are registered under
  at::Tensor pixel_scale_;                      ///< [1,3,1,1], 1 / (255 std)
  at::Tensor pixel_offset_;                     ///< [1,3,1,1], −mean / std
  /// Biases and whole modules of the backbone that the adapter's options let train with it.
  std::set<std::string> beside_adapters_;
};

}  // namespace tessera::model
