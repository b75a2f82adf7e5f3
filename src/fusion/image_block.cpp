#include "fusion/image_block.h"

#include <ATen/ATen.h>

#include "nn/feed_forward.h"
#include "ops/attention.h"

namespace tessera::fusion {

ImageBlockImpl::ImageBlockImpl(const ImageBlockOptions& options) : options_(options) {
  const std::int64_t size = options.hidden_size;
  TORCH_CHECK(size % options.attention_heads == 0, "image block: hidden_size ", size,
              " is no multiple of its ", options.attention_heads, " heads");
  const auto norm = [&] { return torch::nn::LayerNorm(torch::nn::LayerNormOptions({size})); };
  attention_norm = register_module("attention_norm", norm());
  query_key_value = register_module("query_key_value", nn::drawn_linear(size, 3 * size));
  attention_output = register_module("attention_output", nn::drawn_linear(size, size));
  cross_attention =
      register_module("cross_attention", GatedCrossAttention(GatedCrossAttentionOptions{
                                             size, options.text_size, options.cross_attention_heads}));
  feed_forward_norm = register_module("feed_forward_norm", norm());
  up = register_module("up", nn::drawn_linear(size, options.mlp_ratio * size));
  down = register_module("down", nn::drawn_linear(options.mlp_ratio * size, size));
}

at::Tensor ImageBlockImpl::self_attention(const at::Tensor& hidden_states) {
  const std::int64_t batch = hidden_states.size(0);
  const std::int64_t tokens = hidden_states.size(1);
  const at::Tensor attended =
      ops::self_attention(query_key_value->forward(attention_norm->forward(hidden_states))
                              .view({batch, tokens, 3, options_.attention_heads,
                                     options_.hidden_size / options_.attention_heads}));
  return attention_output->forward(attended.reshape({batch, tokens, options_.hidden_size}));
}

at::Tensor ImageBlockImpl::attention_half(const at::Tensor& hidden_states) {
  TORCH_CHECK(hidden_states.dim() == 3 && hidden_states.size(2) == options_.hidden_size,
              "image block: hidden_states [B, N, ", options_.hidden_size, "] expected, got ",
              hidden_states.sizes());
  return hidden_states + self_attention(hidden_states);
}

at::Tensor ImageBlockImpl::feed_forward_half(const at::Tensor& hidden_states) {
  return nn::feed_forward(hidden_states, {.norm_weight = feed_forward_norm->weight,
                                          .norm_bias = feed_forward_norm->bias,
                                          .eps = feed_forward_norm->options.eps(),
                                          .up = up.get(),
                                          .down = down.get()});
}

at::Tensor ImageBlockImpl::forward(const at::Tensor& hidden_states, const ContextKeys* text) {
  const at::Tensor attended = attention_half(hidden_states);
  return feed_forward_half(text == nullptr ? attended : cross_attention->forward(attended, *text));
}

}  // namespace tessera::fusion
