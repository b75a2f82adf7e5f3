#include "fusion/pooling.h"

#include <ATen/ATen.h>

namespace tessera::fusion {

at::Tensor masked_mean(const at::Tensor& hidden_states, const at::Tensor& attention_mask) {
  TORCH_CHECK(hidden_states.dim() == 3 && attention_mask.dim() == 2 &&
                  hidden_states.size(0) == attention_mask.size(0) &&
                  hidden_states.size(1) == attention_mask.size(1),
              "masked_mean: hidden_states [B,T,C] and attention_mask [B,T] must agree, got ",
              hidden_states.sizes(), " and ", attention_mask.sizes());
  // A batched product reads the states once; multiplying by the mask first would write a copy of them.
  const at::Tensor weights = attention_mask.to(hidden_states.scalar_type()).unsqueeze(1);
  const at::Tensor sum = at::bmm(weights, hidden_states).squeeze(1);
  return sum / attention_mask.sum(1, /*keepdim=*/true).clamp_min(1);
}

at::Tensor pooled_image_tokens(const at::Tensor& tokens) {
  TORCH_CHECK(tokens.dim() == 3 && tokens.size(1) >= 2,
              "image pooler: tokens [B, 1+P, D] with at least one patch expected, got ", tokens.sizes());
  // One split, whose gradient is one concatenation; two slices would each have a tensor of zeros.
  const std::vector<at::Tensor> parts = tokens.split_with_sizes({1, tokens.size(1) - 1}, 1);
  return at::cat({parts[0].squeeze(1), parts[1].mean(1)}, -1);
}

at::Tensor unit_length(const at::Tensor& embedding) {
  const at::Tensor wide = embedding.scalar_type() == at::kDouble ? embedding : embedding.to(at::kFloat);
  return wide / wide.norm(2, {-1}, /*keepdim=*/true).clamp_min(1e-6);
}

}  // namespace tessera::fusion
