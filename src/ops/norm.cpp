#include "ops/norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/norm_kernel.h"
#include "ops/row_blocks.h"
#include "ops/vectors.h"

namespace tessera::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Numbers in a row cost about as much as so many multiplications of a product.
constexpr std::int64_t kCost = 64;

NormStatistics* statistics_of(const at::Tensor& tensor) {
  return reinterpret_cast<NormStatistics*>(tensor.data_ptr<float>());
}

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight,
                            double eps) {
    const at::Tensor x = input.contiguous();
    const std::int64_t width = x.size(-1), rows = x.numel() / width;
    at::Tensor y = at::empty_like(x);
    const at::Tensor statistics = at::empty({rows, 2}, x.options());
    const Norm norm{width, weight.const_data_ptr<float>(), nullptr, eps, /*centred=*/false};
    const float* from = x.const_data_ptr<float>();
    float* to = y.mutable_data_ptr<float>();
    NormStatistics* of_rows = statistics_of(statistics);
    for_row_blocks(rows, row_parts(rows, width * kCost),
                   [&](std::int64_t, std::int64_t row, std::int64_t count) {
                     norm_rows(norm, count, from + row * width, to + row * width, of_rows + row);
                   });
    context->saved_data["eps"] = eps;
    context->save_for_backward({x, weight, statistics});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "rms_norm is differentiable once only");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor grad = grads[0].contiguous();
    const std::int64_t width = x.size(-1), rows = x.numel() / width;
    const std::int64_t parts = row_parts(rows, width * kCost);
    at::Tensor grad_x = at::empty_like(x);
    at::Tensor grad_weight = at::zeros({parts, width}, x.options());
    const Norm norm{width, saved[1].const_data_ptr<float>(), nullptr, context->saved_data["eps"].toDouble(),
                    /*centred=*/false};
    const float *dy = grad.const_data_ptr<float>(), *from = x.const_data_ptr<float>();
    float *dx = grad_x.mutable_data_ptr<float>(), *dw = grad_weight.mutable_data_ptr<float>();
    const NormStatistics* of_rows = statistics_of(saved[2]);
    for_row_blocks(rows, parts, [&](std::int64_t part, std::int64_t row, std::int64_t count) {
      norm_backward_rows(norm, count, dy + row * width, from + row * width, of_rows + row, nullptr,
                         {dx + row * width, dw + part * width, nullptr});
    });
    return {grad_x, grad_weight.sum(0), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  TORCH_CHECK(x.dim() >= 1 && weight.dim() == 1 && x.size(-1) == weight.size(0),
              "rms_norm: x is […, C] and weight [C], got ", x.sizes(), " and ", weight.sizes());
  const bool ours = x.is_cpu() && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat &&
                    x.numel() > 0 && x.size(-1) == whole_vectors<float>(x.size(-1));
  if (ours) return RmsNormFunction::apply(x, weight.contiguous(), eps);
  return at::rms_norm(x, weight.sizes(), weight, eps);
}

}  // namespace tessera::ops
