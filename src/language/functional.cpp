#include "language/functional.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <array>
#include <cmath>

namespace tessera::language {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// Elements a task should hold, so that a short input isn't cut into pieces smaller than the cost of a
/// thread.
constexpr std::int64_t kGrain = 16384;

/// The compiler may not reorder one running sum of floating-point numbers; independent ones it can compute in
/// vector registers.
constexpr std::int64_t kLanes = 16;

template <typename Scalar, typename Term>
Scalar lane_sum(std::int64_t count, const Term& term) {
  std::array<Scalar, kLanes> sums{};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) sums[lane] += term(i + lane);
  }
  Scalar total = 0;
  for (; i < count; ++i) total += term(i);
  for (const Scalar sum : sums) total += sum;
  return total;
}

/// Where the one-pass loops below apply; autocast has to see ordinary operations.
bool on_cpu_in_full_precision(const at::Tensor& x) {
  return x.device().is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble);
}

template <typename Scalar>
void rms_norm_forward(const at::Tensor& x, const at::Tensor& weight, double eps, at::Tensor& y,
                      at::Tensor& inverse_rms) {
  const std::int64_t width = x.size(-1);
  const Scalar* x_data = x.const_data_ptr<Scalar>();
  const Scalar* w = weight.const_data_ptr<Scalar>();
  Scalar* y_data = y.mutable_data_ptr<Scalar>();
  Scalar* inverse_data = inverse_rms.mutable_data_ptr<Scalar>();
  at::parallel_for(0, inverse_rms.numel(), kGrain / width + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const Scalar* xr = x_data + row * width;
      Scalar* yr = y_data + row * width;
      const Scalar squares = lane_sum<Scalar>(width, [xr](std::int64_t i) { return xr[i] * xr[i]; });
      const Scalar inverse = Scalar(1) / std::sqrt(squares / Scalar(width) + Scalar(eps));
      inverse_data[row] = inverse;
      for (std::int64_t i = 0; i < width; ++i) yr[i] = xr[i] * inverse * w[i];
    }
  });
}

/// With x̂ = x · inverse_rms and g = grad · weight: grad_x = inverse_rms · (g − x̂ · mean(g · x̂)) and
/// grad_weight = Σ_rows grad · x̂. The rows are cut into `partial.size(0)` runs, each with its own sum for the
/// weight, so that the result doesn't depend on how the threads share them.
template <typename Scalar>
void rms_norm_backward(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                       const at::Tensor& inverse_rms, at::Tensor& grad_x, at::Tensor& partial) {
  const std::int64_t width = x.size(-1);
  const std::int64_t rows = inverse_rms.numel();
  const std::int64_t runs = partial.size(0);
  const Scalar* grad_data = grad.const_data_ptr<Scalar>();
  const Scalar* x_data = x.const_data_ptr<Scalar>();
  const Scalar* w = weight.const_data_ptr<Scalar>();
  const Scalar* inverse_data = inverse_rms.const_data_ptr<Scalar>();
  Scalar* grad_x_data = grad_x.mutable_data_ptr<Scalar>();
  Scalar* partial_data = partial.mutable_data_ptr<Scalar>();
  at::parallel_for(0, runs, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t run = begin; run < end; ++run) {
      Scalar* grad_w = partial_data + run * width;
      for (std::int64_t row = run * rows / runs; row < (run + 1) * rows / runs; ++row) {
        const Scalar* gr = grad_data + row * width;
        const Scalar* xr = x_data + row * width;
        Scalar* out = grad_x_data + row * width;
        const Scalar inverse = inverse_data[row];
        const Scalar product =
            lane_sum<Scalar>(width, [gr, w, xr](std::int64_t i) { return gr[i] * w[i] * xr[i]; });
        const Scalar shared = product * inverse * inverse / Scalar(width);
        for (std::int64_t i = 0; i < width; ++i) {
          out[i] = inverse * (gr[i] * w[i] - xr[i] * shared);
          grad_w[i] += gr[i] * xr[i] * inverse;
        }
      }
    }
  });
}

class RmsNormFunction : public torch::autograd::Function<RmsNormFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight,
                            double eps) {
    const at::Tensor x = input.contiguous();
    at::Tensor y = at::empty_like(x);
    at::Tensor inverse_rms = at::empty(x.sizes().slice(0, x.dim() - 1), x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rms_norm",
                               [&] { rms_norm_forward<scalar_t>(x, weight, eps, y, inverse_rms); });
    context->save_for_backward({x, weight, inverse_rms});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "rms_norm is differentiable once only");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor grad_x = at::empty_like(x);
    const std::int64_t runs = std::max<std::int64_t>(1, std::min<std::int64_t>(64, x.numel() / kGrain));
    at::Tensor partial = at::zeros({runs, x.size(-1)}, x.options());
    AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rms_norm_backward", [&] {
      rms_norm_backward<scalar_t>(grad, x, saved[1], saved[2], grad_x, partial);
    });
    return {grad_x, partial.sum(0), at::Tensor()};
  }
};

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

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  TORCH_CHECK(x.dim() >= 1 && weight.dim() == 1 && x.size(-1) == weight.size(0),
              "rms_norm: x is […, C] and weight [C], got ", x.sizes(), " and ", weight.sizes());
  if (on_cpu_in_full_precision(x) && weight.scalar_type() == x.scalar_type()) {
    return RmsNormFunction::apply(x, weight.contiguous(), eps);
  }
  return at::rms_norm(x, weight.sizes(), weight, eps);
}

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

}  // namespace tessera::language
