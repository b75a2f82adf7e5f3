#include "ops/attention.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <optional>

#include "ops/attention_kernel.h"

namespace tessera::ops {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Autocast would turn float32 operands back into bfloat16.
class WithoutCpuAutocast {
 public:
  WithoutCpuAutocast() : was_enabled_(at::autocast::is_autocast_enabled(at::kCPU)) {
    at::autocast::set_autocast_enabled(at::kCPU, false);
  }
  ~WithoutCpuAutocast() { at::autocast::set_autocast_enabled(at::kCPU, was_enabled_); }
  WithoutCpuAutocast(const WithoutCpuAutocast&) = delete;
  WithoutCpuAutocast& operator=(const WithoutCpuAutocast&) = delete;

 private:
  bool was_enabled_;
};

/// Query, key and value, [B, T, heads, D] each, as one to three tensors: {QKV}, {Q, KV} or {Q, K, V}, where
/// what is packed lies along dimension 2. Undefined where there are fewer.
struct Operands {
  at::Tensor first, second, third;
};

struct Views {
  at::Tensor query, key, value;
};

Views views_of(const Operands& operands) {
  if (!operands.second.defined()) {
    const at::Tensor& packed = operands.first;
    return {packed.select(2, 0), packed.select(2, 1), packed.select(2, 2)};
  }
  if (!operands.third.defined()) {
    const at::Tensor& packed = operands.second;
    return {operands.first, packed.select(2, 0), packed.select(2, 1)};
  }
  return {operands.first, operands.second, operands.third};
}

/// The kernel reads any strides but the last, and pairs of bfloat16.
at::Tensor with_contiguous_rows(const at::Tensor& tensor) {
  bool fits = tensor.stride(-1) == 1;
  if (tensor.scalar_type() == at::kBFloat16) {
    for (std::int64_t dimension = 0; dimension + 1 < tensor.dim(); ++dimension)
      fits = fits && tensor.stride(dimension) % 2 == 0;
  }
  return fits ? tensor : tensor.contiguous();
}

template <typename Number>
AttentionInput<Number> kernel_input(const Views& views, const at::Tensor& bias, bool is_causal) {
  const std::int64_t head_size = views.query.size(3);
  AttentionInput<Number> input{.query = AttentionOperand<Number>(views.query),
                               .key = AttentionOperand<Number>(views.key),
                               .value = AttentionOperand<Number>(views.value),
                               .bias = {},
                               .batch = views.query.size(0),
                               .heads = views.query.size(2),
                               .head_size = head_size,
                               .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_size))),
                               .is_causal = is_causal};
  if (bias.defined()) {
    input.bias = {bias.const_data_ptr<float>(), bias.size(0) == 1 ? 0 : bias.stride(0),
                  bias.size(2) == 1 ? 0 : bias.stride(2)};
  }
  return input;
}

/// A missing operand is no tensor to autograd.
std::optional<at::Tensor> given(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

template <typename Number>
class KernelFunction : public torch::autograd::Function<KernelFunction<Number>> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& first,
                            const std::optional<at::Tensor>& second, const std::optional<at::Tensor>& third,
                            const std::optional<at::Tensor>& bias, bool is_causal) {
    const auto rows = [](const std::optional<at::Tensor>& tensor) {
      return tensor ? with_contiguous_rows(*tensor) : at::Tensor();
    };
    const Operands operands{rows(first), rows(second), rows(third)};
    const at::Tensor added = rows(bias);
    const Views views = views_of(operands);
    const at::Tensor& query = views.query;
    const at::Tensor output = at::empty(query.sizes(), query.options());
    const at::Tensor log_sums =
        at::empty({query.size(0), query.size(2), query.size(1)}, query.options().dtype(at::kFloat));
    attention_forward(kernel_input<Number>(views, added, is_causal), AttentionOperand<Number>(output),
                      log_sums.mutable_data_ptr<float>());
    context->save_for_backward({operands.first, operands.second, operands.third, added, log_sums});
    context->saved_data["is_causal"] = is_causal;
    return output;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "attention is differentiable once only");
    const variable_list saved = context->get_saved_variables();
    const Operands operands{saved[0], saved[1], saved[2]};
    const auto like = [](const at::Tensor& tensor) {
      return tensor.defined() ? at::empty(tensor.sizes(), tensor.options()) : at::Tensor();
    };
    const Operands gradients{like(operands.first), like(operands.second), like(operands.third)};
    const Views of_gradients = views_of(gradients);
    const at::Tensor grad = with_contiguous_rows(grads[0]);
    attention_backward(
        kernel_input<Number>(views_of(operands), saved[3], context->saved_data["is_causal"].toBool()),
        saved[4].const_data_ptr<float>(), AttentionOperand<Number>(grad),
        AttentionGradients<Number>{AttentionOperand<Number>(of_gradients.query),
                                   AttentionOperand<Number>(of_gradients.key),
                                   AttentionOperand<Number>(of_gradients.value)});
    return {gradients.first, gradients.second, gradients.third, at::Tensor(), at::Tensor()};
  }
};

void check(const Views& views, const at::Tensor& bias) {
  const at::Tensor& query = views.query;
  const at::Tensor& key = views.key;
  TORCH_CHECK(query.dim() == 4 && key.dim() == 4 && key.sizes() == views.value.sizes() &&
                  key.size(0) == query.size(0) && key.size(2) == query.size(2) &&
                  key.size(3) == query.size(3),
              "attention: query [B, T, heads, D], key and value [B, S, heads, D] expected, got ",
              query.sizes(), ", ", key.sizes(), " and ", views.value.sizes());
  if (!bias.defined()) return;
  const auto fits = [](std::int64_t size, std::int64_t of) { return size == 1 || size == of; };
  TORCH_CHECK(bias.dim() == 4 && fits(bias.size(0), query.size(0)) && bias.size(1) == 1 &&
                  fits(bias.size(2), query.size(1)) && bias.size(3) == key.size(1) && !bias.requires_grad(),
              "attention: bias [1 or ", query.size(0), ", 1, 1 or ", query.size(1), ", ", key.size(1),
              "] without gradient expected, got ", bias.sizes());
}

at::Tensor library_attention(const Views& views, const at::Tensor& bias, bool is_causal) {
  const auto added = given(bias.defined() ? bias.to(views.query.scalar_type()) : bias);
  return at::scaled_dot_product_attention(views.query.transpose(1, 2), views.key.transpose(1, 2),
                                          views.value.transpose(1, 2), added, /*dropout_p=*/0.0, is_causal)
      .transpose(1, 2);
}

at::Tensor attend_in_given_precision(const Operands& operands, const at::Tensor& bias, bool is_causal) {
  const Views views = views_of(operands);
  if (!attention_kernel_serves(views.query, views.key)) return library_attention(views, bias, is_causal);
  const auto apply = [&]<typename Number>(KernelFunction<Number>) {
    return KernelFunction<Number>::apply(operands.first, given(operands.second), given(operands.third),
                                         given(bias.defined() ? bias.to(at::kFloat) : bias), is_causal);
  };
  return views.query.scalar_type() == at::kFloat ? apply(KernelFunction<float>())
                                                 : apply(KernelFunction<c10::BFloat16>());
}

bool are_all(at::ScalarType dtype, const Views& views) {
  return views.query.scalar_type() == dtype && views.key.scalar_type() == dtype &&
         views.value.scalar_type() == dtype;
}

at::Tensor attend(const Operands& operands, const at::Tensor& bias, bool is_causal) {
  const Views views = views_of(operands);
  check(views, bias);
  const at::ScalarType dtype = operands.first.scalar_type();
  const bool is_narrow_kernel =
      are_all(at::kBFloat16, views) && attention_kernel_serves(views.query, views.key);
  if (!operands.first.is_cpu() || !at::autocast::is_autocast_enabled(at::kCPU) || is_narrow_kernel) {
    return attend_in_given_precision(operands, bias, is_causal);
  }
  const WithoutCpuAutocast without_autocast;
  const auto wide = [](const at::Tensor& tensor) {
    return tensor.defined() ? tensor.to(at::kFloat) : tensor;
  };
  return attend_in_given_precision({wide(operands.first), wide(operands.second), wide(operands.third)}, bias,
                                   is_causal)
      .to(dtype);
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

}  // namespace tessera::ops
