#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/modules/normalization.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

#include "nn/linear.h"

namespace tessera::fusion {

struct GatedCrossAttentionOptions {
  std::int64_t query_size = 0;    ///< width of what reads
  std::int64_t context_size = 0;  ///< width of what is read
  std::int64_t heads = 0;         ///< query_size is a multiple of it
};

/// A context as cross-attention reads it: projected once, read by as many queries as there are.
struct ContextKeys {
  at::Tensor key_value;  ///< [B, S, 2, heads, query_size / heads]
  at::Tensor bias;       ///< undefined, or [B, 1, 1, S]: 0 where a token may be read, −inf elsewhere

  /// Row i becomes what row rows[i] was.
  ContextKeys select(const at::Tensor& rows) const;
};

/// hidden + gate · CA(norm(hidden), norm(context)): FIBER's way for one modality to read the other (Dou et
/// al. 2022, section 3.1), between a layer's self-attention and its feed-forward network. The gate is one
/// number, 0 at first, so that nothing is fused until training opens it. It may take either sign; the value
/// projection absorbs that.
///
/// FIBER's query is the self-attention's output alone, before the residual is added; here it is their sum, as
/// in every pre-norm decoder, so that what asks also knows which token it is.
///
/// Parameters: norm, context_norm (LayerNorm), query, key_value, output (Linear; key_value holds the rows of
/// K, then those of V), gate [1]. Linear layers are initialised as LibTorch does from the global generator.
class GatedCrossAttentionImpl : public torch::nn::Module {
 public:
  explicit GatedCrossAttentionImpl(const GatedCrossAttentionOptions& options);

  /// @param context      [B, S, context_size]
  /// @param context_mask [B, S] bool, true where a token may be read, or undefined where all may. A row that
  ///                     allows none reads all: its result is finite and without meaning.
  ContextKeys keys(const at::Tensor& context, const at::Tensor& context_mask = {});

  /// What hidden states ask, whatever they read. [B, T, query_size] → [B, T, heads, query_size / heads]
  at::Tensor queries(const at::Tensor& hidden_states);

  /// @param hidden_states [B, T, query_size]
  /// @param queries       of these hidden states
  /// @return [B, T, query_size]; exactly hidden_states while the gate is 0
  at::Tensor read(const at::Tensor& hidden_states, const at::Tensor& queries, const ContextKeys& context);

  /// Both.
  at::Tensor forward(const at::Tensor& hidden_states, const ContextKeys& context) {
    return read(hidden_states, queries(hidden_states), context);
  }

  torch::nn::LayerNorm norm{nullptr}, context_norm{nullptr};
  nn::Linear query{nullptr}, key_value{nullptr}, output{nullptr};
  at::Tensor gate;

 private:
  GatedCrossAttentionOptions options_;
};
TORCH_MODULE(GatedCrossAttention);

}  // namespace tessera::fusion
