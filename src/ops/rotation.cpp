#include "ops/rotation.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vector>

#include "ops/kernels.h"
#include "ops/rotation_kernels.h"

namespace tessera::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor turned_by_kernel(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  return kernels_of(x.device()).rotation->rotate(x.contiguous(), cos, sin, inverse);
}

class RotateFunction : public torch::autograd::Function<RotateFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return turned_by_kernel(x, cos, sin, /*inverse=*/false);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "rotate is differentiable once only");
    const variable_list saved = context->get_saved_variables();
    return {turned_by_kernel(grads[0], saved[0], saved[1], /*inverse=*/true), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  TORCH_CHECK(x.dim() == 4 && x.size(3) % 2 == 0, "rotate: x is [B, T, heads, D] with D even, got ",
              x.sizes());
  TORCH_CHECK(cos.dim() == 2 && cos.size(0) == x.size(1) && cos.size(1) * 2 == x.size(3) &&
                  sin.sizes() == cos.sizes(),
              "rotate: cos and sin are [T, D/2] for x ", x.sizes(), ", got ", cos.sizes(), " and ",
              sin.sizes());
  if (serving(kernels_of(x.device()).rotation, x.scalar_type()) != nullptr) {
    const auto match = [&](const at::Tensor& table) { return table.to(x.scalar_type()).contiguous(); };
    return RotateFunction::apply(x, match(cos), match(sin));
  }
  const std::vector<at::Tensor> halves = x.chunk(2, -1);
  const at::Tensor c = cos.unsqueeze(1);
  const at::Tensor s = sin.unsqueeze(1);
  return at::cat({halves[0] * c - halves[1] * s, halves[1] * c + halves[0] * s}, -1).to(x.scalar_type());
}

c10::ScalarType rotary_dtype(c10::Device device, c10::ScalarType dtype) {
  return device.is_cpu() && dtype == at::kBFloat16 ? at::kFloat : dtype;
}

}  // namespace tessera::ops
