#include "ops/linear.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "ops/kernels.h"
#include "ops/linear_kernels.h"

namespace tessera::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight_input,
                            const std::optional<at::Tensor>& bias) {
    const at::Tensor x = input.contiguous(), weight = weight_input.contiguous();
    const at::Tensor y =
        kernels_of(x.device()).linear->forward(x, weight, bias ? bias->contiguous() : at::Tensor());
    const bool trains = weight_input.requires_grad() || (bias && bias->requires_grad());
    context->saved_data["wants_x"] = input.requires_grad();
    context->saved_data["trains"] = trains;
    context->saved_data["has_bias"] = bias.has_value();
    context->save_for_backward({trains ? x : at::Tensor(), weight});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "linear is differentiable once only");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const bool trains = context->saved_data["trains"].toBool();
    const LinearGradients gradients =
        kernels_of(weight.device())
            .linear->backward(grads[0].contiguous(), x, weight,
                              {.x = context->saved_data["wants_x"].toBool(),
                               .weight = trains,
                               .bias = trains && context->saved_data["has_bias"].toBool()});
    return {gradients.x, gradients.weight, gradients.bias};
  }
};

/// Autocast has to see an ordinary product.
bool has_kernel_for_product(const at::Tensor& x, const at::Tensor& weight) {
  return weight.dim() == 2 && x.dim() >= 2 && x.size(-1) == weight.size(1) && weight.numel() > 0 &&
         x.scalar_type() == weight.scalar_type() &&
         serving(kernels_of(x.device()).linear, x.scalar_type(), x.numel() / x.size(-1)) != nullptr &&
         !at::autocast::is_autocast_enabled(x.device().type());
}

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  if (!has_kernel_for_product(x, weight)) return at::linear(x, weight, bias);
  return LinearFunction::apply(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
}

}  // namespace tessera::ops
