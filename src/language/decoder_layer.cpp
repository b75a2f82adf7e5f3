#include "language/decoder_layer.h"

#include <ATen/ATen.h>

#include <limits>

#include "nn/feed_forward.h"
#include "ops/attention.h"
#include "ops/norm.h"
#include "ops/rotation.h"

namespace tessera::language {
namespace {

/// Without a bias; LanguageModelImpl fills it.
nn::Linear make_linear(std::int64_t in, std::int64_t out) { return nn::Linear(in, out, /*with_bias=*/false); }

/// [B, T, key_value_heads, D] → [B, T, heads, D], each head standing `heads / key_value_heads` times in a
/// row.
at::Tensor repeat_heads(const at::Tensor& x, std::int64_t heads) {
  const std::int64_t groups = heads / x.size(2);
  if (groups == 1) return x;
  return x.unsqueeze(3).expand({-1, -1, -1, groups, -1}).flatten(2, 3);
}

/// Which keys a query may read, [B,1,1,T] or [B,1,T,T] bool. No row may be all false: its softmax would be
/// NaN.
at::Tensor readable_keys(const at::Tensor& attention_mask, AttentionMode mode, std::int64_t first_position) {
  const std::int64_t keys = attention_mask.size(1);
  if (mode == AttentionMode::kBidirectional) {
    const at::Tensor padding_only = attention_mask.any(1, /*keepdim=*/true).logical_not();
    return attention_mask.logical_or(padding_only).view({-1, 1, 1, keys});
  }
  // In front of left-padded text a padding query would read nothing, so every query reads itself.
  const at::Tensor square = at::ones({keys, keys}, attention_mask.options());
  const at::Tensor itself = at::eye(keys, attention_mask.options());
  return attention_mask.view({-1, 1, 1, keys})
      .logical_and(square.tril())
      .logical_or(itself)
      .slice(2, first_position);
}

}  // namespace

DecoderContext DecoderContext::select(const at::Tensor& rows) const {
  DecoderContext selected = *this;
  if (attention_bias.defined() && attention_bias.size(0) > 1) {
    selected.attention_bias = attention_bias.index_select(0, rows);
  }
  return selected;
}

DecoderContext make_decoder_context(const LanguageModelConfig& config, const at::Tensor& attention_mask,
                                    std::int64_t tokens, AttentionMode mode, const at::Tensor& like,
                                    std::int64_t first_position) {
  at::NoGradGuard no_grad;
  const std::int64_t keys = first_position + tokens;
  TORCH_CHECK(keys <= config.max_position_embeddings, "a sequence of ", keys,
              " tokens is longer than max_position_embeddings, ", config.max_position_embeddings);
  TORCH_CHECK(first_position == 0 || (first_position > 0 && mode == AttentionMode::kCausal),
              "first_position is ", first_position, "; only causal text continues from a cache");
  DecoderContext context;
  context.first_position = first_position;
  // In float32 also for other dtypes, and in this order of operations, because Hugging Face computes them so.
  const auto options = like.options().dtype(at::kFloat);
  const std::int64_t head_dim = config.head_dim();
  const at::Tensor exponents = at::arange(0, head_dim, 2, options) / static_cast<double>(head_dim);
  const at::Tensor frequencies = at::pow(config.rope_theta, exponents).reciprocal();
  const at::Tensor angles = at::outer(at::arange(first_position, keys, options), frequencies);
  const auto table_type = like.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  context.cos = angles.cos().to(table_type);
  context.sin = angles.sin().to(table_type);

  at::Tensor mask = attention_mask;
  if (!mask.defined()) {
    context.is_causal = mode == AttentionMode::kCausal && first_position == 0;
    // One token reads all of the cache; of several, the earlier may not read the later.
    if (first_position == 0 || tokens == 1) return context;
    mask = at::ones({1, keys}, like.options().dtype(at::kBool));
  }
  TORCH_CHECK(mask.dim() == 2 && mask.size(1) == keys && mask.scalar_type() == at::kBool,
              "attention_mask is [B, ", keys, "] bool, got ", mask.sizes(), " ", mask.scalar_type());
  const at::Tensor readable = readable_keys(mask, mode, first_position);
  context.attention_bias =
      at::zeros(readable.sizes(), like.options())
          .masked_fill_(readable.logical_not(), -std::numeric_limits<double>::infinity());
  return context;
}

RmsNormImpl::RmsNormImpl(std::int64_t size, double eps) : eps_(eps) {
  weight = register_parameter("weight", at::ones({size}));
}

at::Tensor RmsNormImpl::forward(const at::Tensor& x) { return ops::rms_norm(x, weight, eps_); }

AttentionImpl::AttentionImpl(const LanguageModelConfig& config)
    : heads_(config.num_attention_heads),
      key_value_heads_(config.num_key_value_heads),
      head_dim_(config.head_dim()) {
  q_proj = register_module("q_proj", make_linear(config.hidden_size, heads_ * head_dim_));
  k_proj = register_module("k_proj", make_linear(config.hidden_size, key_value_heads_ * head_dim_));
  v_proj = register_module("v_proj", make_linear(config.hidden_size, key_value_heads_ * head_dim_));
  o_proj = register_module("o_proj", make_linear(heads_ * head_dim_, config.hidden_size));
}

at::Tensor AttentionImpl::forward(const at::Tensor& hidden_states, const DecoderContext& context,
                                  KeyValueCache* cache) {
  const std::int64_t cached = cache == nullptr ? 0 : cache->length();
  TORCH_CHECK(cached == context.first_position, "the context begins at position ", context.first_position,
              ", the cache holds ", cached, " tokens");
  const std::int64_t batch = hidden_states.size(0);
  const std::int64_t tokens = hidden_states.size(1);
  const auto split = [&](const at::Tensor& x, std::int64_t heads) {
    return x.to(ops::rotary_dtype(x.device(), x.scalar_type())).view({batch, tokens, heads, head_dim_});
  };
  const at::Tensor query =
      ops::rotate(split(q_proj->forward(hidden_states), heads_), context.cos, context.sin);
  at::Tensor key =
      ops::rotate(split(k_proj->forward(hidden_states), key_value_heads_), context.cos, context.sin);
  at::Tensor value = split(v_proj->forward(hidden_states), key_value_heads_);
  if (cache != nullptr) {
    cache->append(key, value);
    key = cache->key;
    value = cache->value;
  }
  const at::Tensor attended = ops::attention(query, repeat_heads(key, heads_), repeat_heads(value, heads_),
                                             context.attention_bias, context.is_causal);
  return o_proj->forward(attended.reshape({batch, tokens, heads_ * head_dim_}));
}

MlpImpl::MlpImpl(const LanguageModelConfig& config) {
  gate_proj = register_module("gate_proj", make_linear(config.hidden_size, config.intermediate_size));
  up_proj = register_module("up_proj", make_linear(config.hidden_size, config.intermediate_size));
  down_proj = register_module("down_proj", make_linear(config.intermediate_size, config.hidden_size));
}

DecoderLayerImpl::DecoderLayerImpl(const LanguageModelConfig& config) {
  self_attn = register_module("self_attn", Attention(config));
  mlp = register_module("mlp", Mlp(config));
  input_layernorm = register_module("input_layernorm", RmsNorm(config.hidden_size, config.rms_norm_eps));
  post_attention_layernorm =
      register_module("post_attention_layernorm", RmsNorm(config.hidden_size, config.rms_norm_eps));
}

at::Tensor DecoderLayerImpl::attention_half(const at::Tensor& hidden_states, const DecoderContext& context,
                                            KeyValueCache* cache) {
  return hidden_states + self_attn->forward(input_layernorm->forward(hidden_states), context, cache);
}

at::Tensor DecoderLayerImpl::feed_forward_half(const at::Tensor& hidden_states) {
  return nn::feed_forward(hidden_states, {.norm_weight = post_attention_layernorm->weight,
                                          .eps = post_attention_layernorm->eps(),
                                          .gate = mlp->gate_proj.get(),
                                          .up = mlp->up_proj.get(),
                                          .down = mlp->down_proj.get()});
}

at::Tensor DecoderLayerImpl::forward(const at::Tensor& hidden_states, const DecoderContext& context,
                                     KeyValueCache* cache) {
  return feed_forward_half(attention_half(hidden_states, context, cache));
}

}  // namespace tessera::language
