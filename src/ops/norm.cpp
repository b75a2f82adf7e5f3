#include "ops/norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/kernels.h"
#include "ops/norm_kernels.h"

namespace tessera::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight,
                            double eps) {
    const at::Tensor x = input.contiguous();
    const RmsNormForward result = kernels_of(x.device()).rms_norm->forward(x, weight, eps);
    context->saved_data["eps"] = eps;
    context->save_for_backward({x, weight, result.statistics});
    return result.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "rms_norm is differentiable once only");
    const variable_list saved = context->get_saved_variables();
    const RmsNormGradients gradients =
        kernels_of(saved[0].device())
            .rms_norm->backward(grads[0].contiguous(), saved[0], saved[1],
                                context->saved_data["eps"].toDouble(), saved[2]);
    return {gradients.x, gradients.weight, at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  TORCH_CHECK(x.dim() >= 1 && weight.dim() == 1 && x.size(-1) == weight.size(0),
              "rms_norm: x is […, C] and weight [C], got ", x.sizes(), " and ", weight.sizes());
  const bool fits = x.scalar_type() == weight.scalar_type() && x.numel() > 0;
  const RmsNormKernel* kernel =
      fits ? serving(kernels_of(x.device()).rms_norm, x.scalar_type(), x.size(-1)) : nullptr;
  if (kernel != nullptr) return RmsNormFunction::apply(x, weight.contiguous(), eps);
  return at::rms_norm(x, weight.sizes(), weight, eps);
}

}  // namespace tessera::ops
