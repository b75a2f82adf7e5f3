#include "ops/activations.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "ops/activation_kernels.h"
#include "ops/kernels.h"

namespace tessera::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

void check_first_derivative(const char* name) {
  TORCH_CHECK(!at::GradMode::is_enabled(), name, " is differentiable once only");
}

class SwigluFunction : public torch::autograd::Function<SwigluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_input,
                            const at::Tensor& up_input) {
    const at::Tensor gate = gate_input.contiguous(), up = up_input.contiguous();
    const at::Tensor y = kernels_of(gate.device()).swiglu->forward(gate, up);
    context->save_for_backward({gate, up});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    check_first_derivative("swiglu");
    const variable_list saved = context->get_saved_variables();
    const SwigluGradients gradients =
        kernels_of(saved[0].device()).swiglu->backward(grads[0].contiguous(), saved[0], saved[1]);
    return {gradients.gate, gradients.up};
  }
};

class DropoutFunction : public torch::autograd::Function<DropoutFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, double probability) {
    const DropoutKernel& kernel = *kernels_of(x.device()).dropout;
    const std::uint64_t seed = kernel.draw_seed();
    context->saved_data["seed"] = static_cast<std::int64_t>(seed);
    context->saved_data["probability"] = probability;
    return kernel.drop(x.contiguous(), seed, probability);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    check_first_derivative("dropout");
    const auto seed = static_cast<std::uint64_t>(context->saved_data["seed"].toInt());
    const at::Tensor grad = grads[0].contiguous();
    return {
        kernels_of(grad.device()).dropout->drop(grad, seed, context->saved_data["probability"].toDouble()),
        at::Tensor()};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  TORCH_CHECK(gate.sizes() == up.sizes(), "swiglu: gate and up of one shape expected, got ", gate.sizes(),
              " and ", up.sizes());
  const bool alike = gate.scalar_type() == up.scalar_type() && gate.device() == up.device();
  const SwigluKernel* kernel =
      alike ? serving(kernels_of(gate.device()).swiglu, gate.scalar_type()) : nullptr;
  return kernel != nullptr ? SwigluFunction::apply(gate, up) : at::silu(gate) * up;
}

int swiglu_keeps(c10::Device device, c10::ScalarType dtype) {
  return serving(kernels_of(device).swiglu, dtype) != nullptr ? 2 : 3;
}

at::Tensor dropout(const at::Tensor& x, double probability) {
  TORCH_CHECK(probability >= 0 && probability < 1, "dropout: a probability in [0, 1) expected, got ",
              probability);
  if (probability == 0) return x;
  const DropoutKernel* kernel = serving(kernels_of(x.device()).dropout, x.scalar_type());
  return kernel != nullptr ? DropoutFunction::apply(x, probability)
                           : at::dropout(x, probability, /*train=*/true);
}

int dropout_keeps(c10::Device device, c10::ScalarType dtype) {
  return serving(kernels_of(device).dropout, dtype) != nullptr ? 0 : 1;
}

}  // namespace tessera::ops
