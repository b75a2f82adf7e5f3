#include "ops/rotation.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <vector>

namespace tessera::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Elements a task should hold, so that a short input isn't cut into pieces smaller than the cost of a
/// thread.
constexpr std::int64_t kGrain = 16384;

/// Where the one-pass loops below apply; autocast has to see ordinary operations.
bool on_cpu_in_full_precision(const at::Tensor& x) {
  return x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble);
}

/// out = x turned by the angles, or by their negatives (the inverse, which is the transpose and so the
/// gradient).
template <typename Scalar>
void rotate_rows(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse,
                 at::Tensor& out) {
  const std::int64_t tokens = x.size(1);
  const std::int64_t heads = x.size(2);
  const std::int64_t half = x.size(3) / 2;
  const Scalar* x_data = x.const_data_ptr<Scalar>();
  const Scalar* cos_data = cos.const_data_ptr<Scalar>();
  const Scalar* sin_data = sin.const_data_ptr<Scalar>();
  Scalar* out_data = out.mutable_data_ptr<Scalar>();
  const Scalar sign = inverse ? Scalar(-1) : Scalar(1);
  const std::int64_t row_size = heads * half * 2;
  at::parallel_for(0, x.size(0) * tokens, kGrain / row_size + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const Scalar* c = cos_data + (row % tokens) * half;
      const Scalar* s = sin_data + (row % tokens) * half;
      for (std::int64_t head = 0; head < heads; ++head) {
        const Scalar* first = x_data + row * row_size + head * half * 2;
        Scalar* result = out_data + row * row_size + head * half * 2;
        for (std::int64_t i = 0; i < half; ++i) {
          const Scalar turned = sign * s[i];
          result[i] = first[i] * c[i] - first[i + half] * turned;
          result[i + half] = first[i + half] * c[i] + first[i] * turned;
        }
      }
    }
  });
}

at::Tensor rotated(const at::Tensor& input, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  const at::Tensor x = input.contiguous();
  at::Tensor out = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rotate",
                             [&] { rotate_rows<scalar_t>(x, cos, sin, inverse, out); });
  return out;
}

class RotateFunction : public torch::autograd::Function<RotateFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos,
                            const at::Tensor& sin) {
    context->save_for_backward({cos, sin});
    return rotated(x, cos, sin, /*inverse=*/false);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "rotate is differentiable once only");
    const variable_list saved = context->get_saved_variables();
    return {rotated(grads[0], saved[0], saved[1], /*inverse=*/true), at::Tensor(), at::Tensor()};
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
  if (on_cpu_in_full_precision(x)) {
    const auto match = [&](const at::Tensor& table) { return table.to(x.scalar_type()).contiguous(); };
    return RotateFunction::apply(x, match(cos), match(sin));
  }
  const std::vector<at::Tensor> halves = x.chunk(2, -1);
  const at::Tensor c = cos.unsqueeze(1);
  const at::Tensor s = sin.unsqueeze(1);
  return at::cat({halves[0] * c - halves[1] * s, halves[1] * c + halves[0] * s}, -1).to(x.scalar_type());
}

}  // namespace tessera::ops
