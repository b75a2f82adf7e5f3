#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/modules/container/modulelist.h>
#include <torch/nn/pimpl.h>

#include <cstdint>
#include <vector>

#include "fusion/fusion_config.h"
#include "fusion/fusion_inputs.h"
#include "fusion/gated_cross_attention.h"
#include "fusion/image_block.h"
#include "language/language_model.h"
#include "lora/adaptable_module.h"
#include "nn/linear.h"

namespace tessera::fusion {

/// What the tower is told by other parts of the model.
struct FusionTowerSizes {
  std::int64_t image_size = 0;  ///< D, of the compressed image tokens
  std::int64_t text_size = 0;   ///< C, of the language model's hidden states
  std::int64_t code_size = 0;   ///< of the episodic memory's read-out
  std::int64_t read_tokens =
      0;  ///< R: tokens a read-out becomes, so that words can choose what to read of it
};

/// What a run reads of the tower.
struct FusionUse {
  bool encodes = true;    ///< the output of image_states
  bool matches = true;    ///< fused
  bool decodes = true;    ///< conditioned_text
  bool remembers = true;  ///< conditioned_text on a read-out of the memory
};

/// What an adapter's files call the modules of a FusionTower: as they are called here.
const lora::ModuleNames& fusion_module_names();

/// Both modalities after the fused pass.
struct FusedStates {
  at::Tensor image;  ///< [B, N, D]
  at::Tensor text;   ///< [B, T, C], after the final norm
};

/// FIBER's fusion in the backbone (Dou et al. 2022): M image blocks over the compressed tokens on one side,
/// the top M layers of a language model on the other, joined level by level by gated cross-attention. Both
/// sides of a level read the state that the other had *before* it. The same weights run
///   - unfused, as the dual encoder (image_states, upper_text),
///   - fused both ways with bidirectional text (fused), for matching,
///   - with causal text that reads the *unfused* image states (conditioned_text), for captions: image states
///     that had read the text would carry later words into earlier logits.
///
/// The language model is the caller's; the tower owns what joins it to the image. "Lower text" is the state
/// after the layers below the first level, the same in all passes of one attention mode.
class FusionTowerImpl : public lora::AdaptableModule {
 public:
  /// @param config  `levels` is M
  FusionTowerImpl(const FusionConfig& config, const FusionTowerSizes& sizes);

  const lora::ModuleNames& module_names() const override;
  std::int64_t levels() const { return config_.levels; }

  /// The first level's self-attention over compressed tokens. [B, N, D] → [B, N, D]
  at::Tensor attended_image(const at::Tensor& tokens) { return image_block(0).attention_half(tokens); }

  /// The unfused image pass.
  /// @param tokens   [B, N, D] compressed tokens, [CLS] first
  /// @param attended attended_image of them, or undefined
  /// @return M+1 states [B, N, D]: state i is what level i reads, the last is the output
  std::vector<at::Tensor> image_states(const at::Tensor& tokens, const at::Tensor& attended = {});

  /// Embedding and the layers below the first level.
  /// @param caches one a layer of the language model, or null; see language::KeyValueCache
  /// @return [B, T, C]
  at::Tensor lower_text(language::LanguageModel& language, const at::Tensor& input_ids,
                        const language::DecoderContext& context,
                        std::vector<language::KeyValueCache>* caches = nullptr);

  /// The first level's self-attention over the lower text. [B, T, C] → [B, T, C]
  at::Tensor attended_text(language::LanguageModel& language, const at::Tensor& lower_text,
                           const language::DecoderContext& context,
                           std::vector<language::KeyValueCache>* caches = nullptr);

  /// The unfused text pass from attended text on, up to and with the final norm. [B, T, C] → [B, T, C]
  at::Tensor upper_text(language::LanguageModel& language, const at::Tensor& attended_text,
                        const language::DecoderContext& context);

  /// The fused pass over pairs of images and texts. What the first level computes before either side has read
  /// the other is the same in every pair, and is computed once an image and once a text.
  /// @param image_tokens   [I, 1+P, D] compressed tokens
  /// @param lower_text     [J, T, C]
  /// @param attention_mask [J, T] bool; image blocks don't read padding
  /// @param context        bidirectional, of the same mask
  /// @param attended       of the same images and texts, as far as it is known
  /// @return the states of the N pairs
  FusedStates fused(language::LanguageModel& language, const at::Tensor& image_tokens,
                    const at::Tensor& lower_text, const at::Tensor& attention_mask,
                    const language::DecoderContext& context, const PairRows& pairs = {},
                    const FirstAttention& attended = {});

  /// What each level's text layer reads of a condition: the image state of that level, and the memory's
  /// read-out as R tokens more. Computed once, it serves every token that is decoded.
  std::vector<ContextKeys> caption_keys(const CaptionCondition& condition);

  /// The text pass under a condition, from attended text on, up to and with the final norm.
  /// @param keys   caption_keys
  /// @param caches as in lower_text
  at::Tensor conditioned_text(language::LanguageModel& language, const at::Tensor& attended_text,
                              const language::DecoderContext& context, const std::vector<ContextKeys>& keys,
                              std::vector<language::KeyValueCache>* caches = nullptr);

  /// Leaves without gradient what has no part in anything that is read.
  void freeze_unused(const FusionUse& use);

  ImageBlockImpl& image_block(std::int64_t level) { return *image_blocks_->ptr<ImageBlockImpl>(level); }
  GatedCrossAttentionImpl& text_cross_attention(std::int64_t level) {
    return *text_cross_attention_->ptr<GatedCrossAttentionImpl>(level);
  }

 private:
  std::int64_t first_layer(const language::LanguageModel& language) const;

  FusionConfig config_;
  FusionTowerSizes sizes_;
  torch::nn::ModuleList image_blocks_{nullptr};
  torch::nn::ModuleList text_cross_attention_{nullptr};
  nn::Linear memory_projection_{nullptr};
};
TORCH_MODULE(FusionTower);

}  // namespace tessera::fusion
