#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include "language/key_value_cache.h"
#include "language/language_model_config.h"
#include "nn/linear.h"

namespace tessera::language {

enum class AttentionMode {
  kCausal,         ///< a token reads itself and earlier ones
  kBidirectional,  ///< a token reads all
};

/// What every layer of one call shares, computed once (make_decoder_context).
struct DecoderContext {
  at::Tensor cos;  ///< [t, head_dim/2] float32 (float64 in a float64 model)
  at::Tensor sin;  ///< the same
  /// Undefined, or [B or 1, 1, 1 or t, first_position + t]: 0 where a key may be read, −inf elsewhere.
  at::Tensor attention_bias;
  bool is_causal = false;           ///< causal without a bias
  std::int64_t first_position = 0;  ///< of the call's tokens; so many earlier ones are in each layer's cache

  /// For the sequences `rows` [N] int64 of the batch.
  DecoderContext select(const at::Tensor& rows) const;
};

/// @param attention_mask  [B, first_position + tokens] bool, true for real tokens; undefined where no
///                        sequence is padded. Padding is never read by a real token. A row of padding only
///                        gives finite values of no meaning.
/// @param tokens          of this call; with first_position they fit into max_position_embeddings
/// @param like            a tensor of the hidden states' dtype and device
/// @param first_position  how many tokens the caches hold already; above 0 in causal mode only, because what
///                        a bidirectional token computes changes with every later one
DecoderContext make_decoder_context(const LanguageModelConfig& config, const at::Tensor& attention_mask,
                                    std::int64_t tokens, AttentionMode mode, const at::Tensor& like,
                                    std::int64_t first_position = 0);

/// Root-mean-square norm with a learned scale: parameter `weight` [C], initially 1.
class RmsNormImpl : public torch::nn::Module {
 public:
  RmsNormImpl(std::int64_t size, double eps);
  at::Tensor forward(const at::Tensor& x);
  double eps() const { return eps_; }

  at::Tensor weight;

 private:
  double eps_;
};
TORCH_MODULE(RmsNorm);

/// Self-attention with rotary positions, grouped keys and values where the config asks for it.
class AttentionImpl : public torch::nn::Module {
 public:
  explicit AttentionImpl(const LanguageModelConfig& config);
  /// @param hidden_states [B, t, C] → [B, t, C]
  /// @param cache          where given, holds the context's first_position tokens and gets these t; they read
  ///                       it and themselves. Causal, without gradients.
  at::Tensor forward(const at::Tensor& hidden_states, const DecoderContext& context,
                     KeyValueCache* cache = nullptr);

  nn::Linear q_proj{nullptr}, k_proj{nullptr}, v_proj{nullptr}, o_proj{nullptr};

 private:
  std::int64_t heads_;
  std::int64_t key_value_heads_;
  std::int64_t head_dim_;
};
TORCH_MODULE(Attention);

/// The weights of SwiGLU (Shazeer 2020), down(silu(gate(x)) · up(x)), which nn::feed_forward computes
/// together with norm and residual.
class MlpImpl : public torch::nn::Module {
 public:
  explicit MlpImpl(const LanguageModelConfig& config);

  nn::Linear gate_proj{nullptr}, up_proj{nullptr}, down_proj{nullptr};
};
TORCH_MODULE(Mlp);

/// One pre-norm layer, in halves, so that others can step between them. Each half adds its residual.
class DecoderLayerImpl : public torch::nn::Module {
 public:
  explicit DecoderLayerImpl(const LanguageModelConfig& config);

  /// [B, T, C] → [B, T, C]; the cache as in AttentionImpl::forward
  at::Tensor attention_half(const at::Tensor& hidden_states, const DecoderContext& context,
                            KeyValueCache* cache = nullptr);
  at::Tensor feed_forward_half(const at::Tensor& hidden_states);
  at::Tensor forward(const at::Tensor& hidden_states, const DecoderContext& context,
                     KeyValueCache* cache = nullptr);

  Attention self_attn{nullptr};
  Mlp mlp{nullptr};
  RmsNorm input_layernorm{nullptr}, post_attention_layernorm{nullptr};
};
TORCH_MODULE(DecoderLayer);

}  // namespace tessera::language
