#include "ops/attention.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "core/autocast.h"
#include "ops/attention_kernels.h"
#include "ops/kernels.h"

namespace tessera::ops {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Query, key and value, [B, T, heads, D] each, as one to three tensors: {QKV}, {Q, KV} or {Q, K, V}, where
/// what is packed lies along dimension 2. Undefined where there are fewer.
struct Packed {
  at::Tensor first, second, third;
};

AttentionOperands operands_of(const Packed& given) {
  if (!given.second.defined()) {
    const at::Tensor& packed = given.first;
    return {packed.select(2, 0), packed.select(2, 1), packed.select(2, 2)};
  }
  if (!given.third.defined()) {
    const at::Tensor& packed = given.second;
    return {given.first, packed.select(2, 0), packed.select(2, 1)};
  }
  return {given.first, given.second, given.third};
}

/// Kernels read any strides but the last, and pairs of 16 bits.
at::Tensor with_contiguous_rows(const at::Tensor& tensor) {
  bool fits = tensor.stride(-1) == 1;
  if (tensor.element_size() == 2) {
    for (std::int64_t dimension = 0; dimension + 1 < tensor.dim(); ++dimension)
      fits = fits && tensor.stride(dimension) % 2 == 0;
  }
  return fits ? tensor : tensor.contiguous();
}

/// A missing operand is no tensor to autograd.
std::optional<at::Tensor> given(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

class AttentionFunction : public torch::autograd::Function<AttentionFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& first,
                            const std::optional<at::Tensor>& second, const std::optional<at::Tensor>& third,
                            const std::optional<at::Tensor>& bias, bool is_causal) {
    const auto rows = [](const std::optional<at::Tensor>& tensor) {
      return tensor ? with_contiguous_rows(*tensor) : at::Tensor();
    };
    const Packed packed{rows(first), rows(second), rows(third)};
    const at::Tensor added = rows(bias);
    const AttentionForward result =
        kernels_of(first.device()).attention->forward({operands_of(packed), added, is_causal});
    variable_list saved{packed.first, packed.second, packed.third, added};
    saved.insert(saved.end(), result.saved.begin(), result.saved.end());
    context->save_for_backward(saved);
    context->saved_data["is_causal"] = is_causal;
    return result.output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "attention is differentiable once only");
    const variable_list saved = context->get_saved_variables();
    const Packed packed{saved[0], saved[1], saved[2]};
    const auto like = [](const at::Tensor& tensor) {
      return tensor.defined() ? at::empty(tensor.sizes(), tensor.options()) : at::Tensor();
    };
    const Packed gradients{like(packed.first), like(packed.second), like(packed.third)};
    kernels_of(packed.first.device())
        .attention->backward({operands_of(packed), saved[3], context->saved_data["is_causal"].toBool()},
                             {saved.begin() + 4, saved.end()}, with_contiguous_rows(grads[0]),
                             operands_of(gradients));
    return {gradients.first, gradients.second, gradients.third, at::Tensor(), at::Tensor()};
  }
};

void check(const AttentionOperands& operands, const at::Tensor& bias) {
  const at::Tensor& query = operands.query;
  const at::Tensor& key = operands.key;
  TORCH_CHECK(query.dim() == 4 && key.dim() == 4 && key.sizes() == operands.value.sizes() &&
                  key.size(0) == query.size(0) && key.size(2) == query.size(2) &&
                  key.size(3) == query.size(3),
              "attention: query [B, T, heads, D], key and value [B, S, heads, D] expected, got ",
              query.sizes(), ", ", key.sizes(), " and ", operands.value.sizes());
  if (!bias.defined()) return;
  const auto fits = [](std::int64_t size, std::int64_t of) { return size == 1 || size == of; };
  TORCH_CHECK(bias.dim() == 4 && fits(bias.size(0), query.size(0)) && bias.size(1) == 1 &&
                  fits(bias.size(2), query.size(1)) && bias.size(3) == key.size(1) && !bias.requires_grad(),
              "attention: bias [1 or ", query.size(0), ", 1, 1 or ", query.size(1), ", ", key.size(1),
              "] without gradient expected, got ", bias.sizes());
}

bool are_all(at::ScalarType dtype, const AttentionOperands& operands) {
  return operands.query.scalar_type() == dtype && operands.key.scalar_type() == dtype &&
         operands.value.scalar_type() == dtype;
}

bool has_kernel_for_attention(const AttentionOperands& operands) {
  const at::Tensor& query = operands.query;
  return are_all(query.scalar_type(), operands) && query.numel() > 0 && operands.key.size(1) > 0 &&
         serving(kernels_of(query.device()).attention, query.scalar_type(), query.size(3),
                 operands.key.size(1)) != nullptr;
}

at::Tensor library_attention(const AttentionOperands& operands, const at::Tensor& bias, bool is_causal) {
  const auto added = given(bias.defined() ? bias.to(operands.query.scalar_type()) : bias);
  return at::scaled_dot_product_attention(operands.query.transpose(1, 2), operands.key.transpose(1, 2),
                                          operands.value.transpose(1, 2), added, /*dropout_p=*/0.0, is_causal)
      .transpose(1, 2);
}

at::Tensor attend_in_given_precision(const Packed& packed, const at::Tensor& bias, bool is_causal) {
  const AttentionOperands operands = operands_of(packed);
  if (!has_kernel_for_attention(operands)) return library_attention(operands, bias, is_causal);
  return AttentionFunction::apply(packed.first, given(packed.second), given(packed.third),
                                  given(bias.defined() ? bias.to(at::kFloat) : bias), is_causal);
}

/// Whether LibTorch's attention, forward and backward, is quicker in float32 than in bfloat16.
bool is_quicker_in_float32(c10::Device device) { return device.is_cpu(); }

at::Tensor attend(const Packed& packed, const at::Tensor& bias, bool is_causal) {
  const AttentionOperands operands = operands_of(packed);
  check(operands, bias);
  const c10::Device device = packed.first.device();
  const bool has_narrow_kernel = are_all(at::kBFloat16, operands) && has_kernel_for_attention(operands);
  if (!is_quicker_in_float32(device) || !at::autocast::is_autocast_enabled(device.type()) ||
      has_narrow_kernel) {
    return attend_in_given_precision(packed, bias, is_causal);
  }
  const NoAutocast no_autocast;  // it would turn float32 operands back into bfloat16
  const auto wide = [](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.to(at::kFloat) : tensor;
  };
  return attend_in_given_precision({wide(packed.first), wide(packed.second), wide(packed.third)}, bias,
                                   is_causal)
      .to(packed.first.scalar_type());
}

}  // namespace

at::Tensor attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                     const at::Tensor& bias, bool is_causal) {
  return attend({query, key, value}, bias, is_causal);
}

at::Tensor self_attention(const at::Tensor& query_key_value) {
  TORCH_CHECK(query_key_value.dim() == 5 && query_key_value.size(2) == 3,
              "self-attention: query_key_value [B, T, 3, heads, D] expected, got ", query_key_value.sizes());
  return attend({query_key_value, {}, {}}, {}, /*is_causal=*/false);
}

at::Tensor cross_attention(const at::Tensor& query, const at::Tensor& key_value, const at::Tensor& bias) {
  TORCH_CHECK(key_value.dim() == 5 && key_value.size(2) == 2,
              "cross-attention: key_value [B, S, 2, heads, D] expected, got ", key_value.sizes());
  return attend({query, key_value, {}}, bias, /*is_causal=*/false);
}

AttentionKept attention_keeps(c10::Device device, c10::ScalarType dtype, std::int64_t head_size) {
  const bool has_kernel =
      serving(kernels_of(device).attention, dtype, head_size, /*keys=*/std::int64_t{1}) != nullptr;
  if (has_kernel || !is_quicker_in_float32(device)) return {dtype, /*output=*/false};
  return {at::kFloat, /*output=*/true};
}

}  // namespace tessera::ops
