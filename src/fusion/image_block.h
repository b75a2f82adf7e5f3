#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

#include "fusion/gated_cross_attention.h"
#include "nn/linear.h"

namespace tessera::fusion {

struct ImageBlockOptions {
  std::int64_t hidden_size = 0;  ///< D, of the compressed image tokens
  std::int64_t text_size = 0;    ///< of the text states that it may read
  std::int64_t attention_heads = 0;
  std::int64_t mlp_ratio = 0;
  std::int64_t cross_attention_heads = 0;
};

/// One level of the image side: pre-norm self-attention, gated cross-attention to the text, feed-forward with
/// GELU. Without keys of a text the same weights are a plain transformer block, the dual encoder's.
class ImageBlockImpl : public torch::nn::Module {
 public:
  explicit ImageBlockImpl(const ImageBlockOptions& options);

  /// @param hidden_states [B, N, D]
  /// @param text          what the level reads (cross_attention->keys), or null: unfused
  /// @return [B, N, D]
  at::Tensor forward(const at::Tensor& hidden_states, const ContextKeys* text);
  /// What comes before the cross-attention, and what after it, each with its residual. [B, N, D] → [B, N, D]
  at::Tensor attention_half(const at::Tensor& hidden_states);
  at::Tensor feed_forward_half(const at::Tensor& hidden_states);

  torch::nn::LayerNorm attention_norm{nullptr}, feed_forward_norm{nullptr};
  nn::Linear query_key_value{nullptr}, attention_output{nullptr}, up{nullptr}, down{nullptr};
  GatedCrossAttention cross_attention{nullptr};

 private:
  at::Tensor self_attention(const at::Tensor& hidden_states);

  ImageBlockOptions options_;
};
TORCH_MODULE(ImageBlock);

}  // namespace tessera::fusion
