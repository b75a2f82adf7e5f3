#include <ATen/ATen.h>

#include <cmath>
#include <vector>

#include "ops/attention_kernels.h"
#include "ops/cpu/attention_kernel.h"
#include "ops/cpu/kernels.h"
#include "ops/cpu/vectors.h"

namespace tessera::ops::cpu {
namespace {

bool serves_attention(c10::ScalarType dtype, std::int64_t head_size, std::int64_t keys) {
  const bool has_kernel = dtype == at::kFloat || (dtype == at::kBFloat16 && multiplies_bfloat16());
  return has_kernel && head_size == whole_vectors<float>(head_size) && keys <= kMostAttentionKeys;
}

template <typename Number>
AttentionInput<Number> input_of(const AttentionArguments& arguments) {
  const auto& [query, key, value] = arguments.operands;
  const at::Tensor& bias = arguments.bias;
  const std::int64_t head_size = query.size(3);
  AttentionInput<Number> input{.query = AttentionOperand<Number>(query),
                               .key = AttentionOperand<Number>(key),
                               .value = AttentionOperand<Number>(value),
                               .bias = {},
                               .batch = query.size(0),
                               .heads = query.size(2),
                               .head_size = head_size,
                               .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(head_size))),
                               .is_causal = arguments.is_causal};
  if (bias.defined()) {
    input.bias = {bias.const_data_ptr<float>(), bias.size(0) == 1 ? 0 : bias.stride(0),
                  bias.size(2) == 1 ? 0 : bias.stride(2)};
  }
  return input;
}

template <typename Number>
void forward_in(const AttentionArguments& arguments, const at::Tensor& output, const at::Tensor& log_sums) {
  attention_forward(input_of<Number>(arguments), AttentionOperand<Number>(output),
                    log_sums.mutable_data_ptr<float>());
}

template <typename Number>
void backward_in(const AttentionArguments& arguments, const at::Tensor& log_sums,
                 const at::Tensor& grad_output, const AttentionOperands& gradients) {
  attention_backward(input_of<Number>(arguments), log_sums.const_data_ptr<float>(),
                     AttentionOperand<Number>(grad_output),
                     AttentionGradients<Number>{AttentionOperand<Number>(gradients.query),
                                                AttentionOperand<Number>(gradients.key),
                                                AttentionOperand<Number>(gradients.value)});
}

AttentionForward attention_forward_pass(const AttentionArguments& arguments) {
  const at::Tensor& query = arguments.operands.query;
  const at::Tensor output = at::empty(query.sizes(), query.options());
  const at::Tensor log_sums =
      at::empty({query.size(0), query.size(2), query.size(1)}, query.options().dtype(at::kFloat));
  if (query.scalar_type() == at::kFloat) {
    forward_in<float>(arguments, output, log_sums);
  } else {
    forward_in<c10::BFloat16>(arguments, output, log_sums);
  }
  return {output, {log_sums}};
}

void attention_backward_pass(const AttentionArguments& arguments, const std::vector<at::Tensor>& saved,
                             const at::Tensor& grad_output, const AttentionOperands& gradients) {
  if (grad_output.scalar_type() == at::kFloat) {
    backward_in<float>(arguments, saved[0], grad_output, gradients);
  } else {
    backward_in<c10::BFloat16>(arguments, saved[0], grad_output, gradients);
  }
}

}  // namespace

const AttentionKernel kAttention{serves_attention, attention_forward_pass, attention_backward_pass};

}  // namespace tessera::ops::cpu
