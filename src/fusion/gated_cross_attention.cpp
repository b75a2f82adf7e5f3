#include "fusion/gated_cross_attention.h"

#include <ATen/ATen.h>

#include <limits>

#include "ops/attention.h"

namespace tessera::fusion {

ContextKeys ContextKeys::select(const at::Tensor& rows) const {
  return {key_value.index_select(0, rows), bias.defined() ? bias.index_select(0, rows) : at::Tensor()};
}

GatedCrossAttentionImpl::GatedCrossAttentionImpl(const GatedCrossAttentionOptions& options)
    : options_(options) {
  TORCH_CHECK(options.heads >= 1 && options.query_size % options.heads == 0,
              "gated cross-attention: query_size ", options.query_size, " is no multiple of its ",
              options.heads, " heads");
  norm = register_module("norm", torch::nn::LayerNorm(torch::nn::LayerNormOptions({options.query_size})));
  context_norm = register_module("context_norm",
                                 torch::nn::LayerNorm(torch::nn::LayerNormOptions({options.context_size})));
  query = register_module("query", nn::drawn_linear(options.query_size, options.query_size));
  key_value = register_module("key_value", nn::drawn_linear(options.context_size, 2 * options.query_size));
  output = register_module("output", nn::drawn_linear(options.query_size, options.query_size));
  gate = register_parameter("gate", at::zeros({1}));
}

ContextKeys GatedCrossAttentionImpl::keys(const at::Tensor& context, const at::Tensor& context_mask) {
  TORCH_CHECK(context.dim() == 3 && context.size(2) == options_.context_size,
              "gated cross-attention: context [B, S, ", options_.context_size, "] expected, got ",
              context.sizes());
  const std::int64_t batch = context.size(0);
  const std::int64_t tokens = context.size(1);
  ContextKeys keys{key_value->forward(context_norm->forward(context))
                       .view({batch, tokens, 2, options_.heads, options_.query_size / options_.heads}),
                   {}};
  if (context_mask.defined()) {
    TORCH_CHECK(context_mask.dim() == 2 && context_mask.size(0) == batch && context_mask.size(1) == tokens &&
                    context_mask.scalar_type() == at::kBool,
                "gated cross-attention: context_mask [", batch, ", ", tokens, "] bool expected, got ",
                context_mask.sizes(), " ", context_mask.scalar_type());
    // A softmax over nothing would be NaN.
    const at::Tensor readable = context_mask.logical_or(context_mask.any(1, /*keepdim=*/true).logical_not());
    keys.bias = at::zeros({batch, 1, 1, tokens}, context.options().requires_grad(false))
                    .masked_fill_(readable.logical_not().view({batch, 1, 1, tokens}),
                                  -std::numeric_limits<double>::infinity());
  }
  return keys;
}

at::Tensor GatedCrossAttentionImpl::queries(const at::Tensor& hidden_states) {
  TORCH_CHECK(hidden_states.dim() == 3 && hidden_states.size(2) == options_.query_size,
              "gated cross-attention: hidden_states [B, T, ", options_.query_size, "] expected, got ",
              hidden_states.sizes());
  return query->forward(norm->forward(hidden_states))
      .view({hidden_states.size(0), hidden_states.size(1), options_.heads,
             options_.query_size / options_.heads});
}

at::Tensor GatedCrossAttentionImpl::read(const at::Tensor& hidden_states, const at::Tensor& queries,
                                         const ContextKeys& context) {
  TORCH_CHECK(queries.size(0) == context.key_value.size(0), "gated cross-attention: a context for each of ",
              queries.size(0), " rows expected, got ", context.key_value.size(0));
  const at::Tensor attended = ops::cross_attention(queries, context.key_value, context.bias);
  const at::Tensor projected = output->forward(attended.reshape(hidden_states.sizes()));
  return at::addcmul(hidden_states, projected, gate.to(projected.scalar_type()));
}

}  // namespace tessera::fusion
