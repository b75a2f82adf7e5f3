#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/modules/embedding.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "language/decoder_layer.h"
#include "language/language_model_config.h"
#include "lora/adaptable_module.h"

namespace tessera::language {

/// The part of the language model that Hugging Face calls `model`: embedding, layers, final norm.
class DecoderImpl : public torch::nn::Module {
 public:
  explicit DecoderImpl(const LanguageModelConfig& config);

  torch::nn::Embedding embed_tokens{nullptr};
  torch::nn::ModuleList layers{nullptr};
  RmsNorm norm{nullptr};
};
TORCH_MODULE(Decoder);

/// A Llama-shaped language model (Touvron et al. 2023) whose parameters have the names and shapes of Hugging
/// Face's LlamaForCausalLM. The same weights run causally or bidirectionally: a mode of the call.
///
///   LanguageModel model(LanguageModelConfig::from_config({}), /*seed=*/0);
///   auto hidden = model->hidden_states(batch.input_ids, batch.attention_mask, AttentionMode::kCausal);
///   auto logits = model->logits(hidden);
///
/// hidden_states is embed → every layer → final_norm; who wants to act between the layers calls these in
/// turn, with one context for the whole call.
class LanguageModelImpl : public lora::AdaptableModule {
 public:
  /// Fresh weights as Hugging Face initialises them: normal with std initializer_range, drawn on the CPU from
  /// `seed` alone; norms 1; the pad token's embedding 0.
  /// @throws Error where the config's sizes don't fit together
  LanguageModelImpl(const LanguageModelConfig& config, std::uint64_t seed);

  const LanguageModelConfig& config() const { return config_; }
  const lora::ModuleNames& module_names() const override;
  std::int64_t num_layers() const { return config_.num_hidden_layers; }

  /// @param input_ids       [B, T] int64, T ≤ max_position_embeddings; positions are counted from the left
  /// @param attention_mask  [B, T] bool, true for real tokens, or undefined where no sequence is padded
  /// @return [B, T, C] after the final norm; rows of padding are finite and without meaning
  at::Tensor hidden_states(const at::Tensor& input_ids, const at::Tensor& attention_mask, AttentionMode mode);

  /// @param hidden_states [B, T, C] after the final norm → [B, T, vocab_size]
  at::Tensor logits(const at::Tensor& hidden_states);

  /// [B, T] int64 → [B, T, C]
  at::Tensor embed(const at::Tensor& input_ids);
  /// The token embedding's weight, [vocab_size, C].
  const at::Tensor& embedding() const { return model_->embed_tokens->weight; }
  /// The context for a call of `tokens` tokens on the model's device, after `first_position` tokens that the
  /// layers' caches hold (make_decoder_context).
  DecoderContext context(const at::Tensor& attention_mask, std::int64_t tokens, AttentionMode mode,
                         std::int64_t first_position = 0) const;
  DecoderLayerImpl& layer(std::int64_t index);
  at::Tensor final_norm(const at::Tensor& hidden_states);

 private:
  void initialise(std::uint64_t seed);

  LanguageModelConfig config_;
  Decoder model_{nullptr};
  nn::Linear lm_head_{nullptr};  ///< absent where the embedding is tied
};
TORCH_MODULE(LanguageModel);

/// The weights under Hugging Face's names (`lm_head.weight` only where it isn't tied), without adapters. They
/// share the model's storage.
TensorMap language_model_weights(const LanguageModel& model);

/// Copies weights, of any floating dtype, into the model. A tied model accepts an `lm_head.weight` equal to
/// the embedding.
/// @param source  what to call them in messages, e.g. the file's path
/// @throws Error listing all missing, unexpected and mis-shaped tensors, or naming one with values that are
///         not finite; the model is then unchanged
void load_language_model_weights(LanguageModel& model, const TensorMap& weights, const std::string& source);

}  // namespace tessera::language
