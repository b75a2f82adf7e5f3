#include "ops/feed_forward.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "ops/activations.h"
#include "ops/feed_forward_kernels.h"
#include "ops/kernels.h"
#include "ops/linear.h"
#include "ops/norm.h"

namespace tessera::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::optional<at::Tensor> optional(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional(tensor) : std::nullopt;
}

class FeedForwardFunction : public torch::autograd::Function<FeedForwardFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& norm_weight,
                            const std::optional<at::Tensor>& norm_bias, double eps,
                            const std::optional<at::Tensor>& gate, const at::Tensor& up,
                            const std::optional<at::Tensor>& up_bias, const at::Tensor& down,
                            const std::optional<at::Tensor>& down_bias) {
    const auto given = [](const std::optional<at::Tensor>& tensor) {
      return tensor ? tensor->contiguous() : at::Tensor();
    };
    const FeedForward p{
        norm_weight.contiguous(), given(norm_bias), eps, given(gate), up.contiguous(), given(up_bias),
        down.contiguous(),        given(down_bias)};
    const at::Tensor x = input.contiguous();
    FeedForwardForward result = kernels_of(x.device()).feed_forward->forward(x, p);
    context->saved_data["eps"] = eps;
    context->saved_data["trains"] = up.requires_grad() || down.requires_grad() || norm_weight.requires_grad();
    variable_list saved{x, p.norm_weight, p.norm_bias, p.gate, p.up, p.up_bias, p.down, p.down_bias};
    saved.insert(saved.end(), result.saved.begin(), result.saved.end());
    context->save_for_backward(saved);
    return result.y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "feed_forward is differentiable once only");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor& x = saved[0];
    const FeedForward p{saved[1], saved[2], context->saved_data["eps"].toDouble(),
                        saved[3], saved[4], saved[5],
                        saved[6], saved[7]};
    const FeedForwardGradients gradients =
        kernels_of(x.device())
            .feed_forward->backward(grads[0].contiguous(), x, p, {saved.begin() + 8, saved.end()},
                                    context->saved_data["trains"].toBool());
    const FeedForward& of = gradients.parameters;
    return {gradients.x, of.norm_weight, of.norm_bias, at::Tensor(), of.gate,
            of.up,       of.up_bias,     of.down,      of.down_bias};
  }
};

bool has_kernel_for_half(const at::Tensor& x, const FeedForward& p) {
  return x.dim() >= 2 && x.numel() > 0 && x.scalar_type() == p.up.scalar_type() &&
         feed_forward_is_one_kernel(x.device(), x.scalar_type(), p.up.size(1), p.up.size(0)) &&
         !at::autocast::is_autocast_enabled(x.device().type());
}

}  // namespace

bool feed_forward_is_one_kernel(c10::Device device, c10::ScalarType dtype, std::int64_t width,
                                std::int64_t inner) {
  return serving(kernels_of(device).feed_forward, dtype, width, inner) != nullptr;
}

at::Tensor feed_forward(const at::Tensor& x, const FeedForward& p) {
  TORCH_CHECK(x.size(-1) == p.up.size(1) && p.down.size(0) == p.up.size(1) && p.down.size(1) == p.up.size(0),
              "feed_forward: x […, C], up [F, C] and down [C, F] expected, got ", x.sizes(), ", ",
              p.up.sizes(), " and ", p.down.sizes());
  if (has_kernel_for_half(x, p)) {
    return FeedForwardFunction::apply(x, p.norm_weight, optional(p.norm_bias), p.eps, optional(p.gate), p.up,
                                      optional(p.up_bias), p.down, optional(p.down_bias));
  }
  const at::Tensor normed = p.norm_bias.defined()
                                ? at::layer_norm(x, p.norm_weight.sizes(), p.norm_weight, p.norm_bias, p.eps)
                                : ops::rms_norm(x, p.norm_weight, p.eps);
  const at::Tensor up = ops::linear(normed, p.up, p.up_bias);
  const at::Tensor active = p.gate.defined() ? ops::swiglu(ops::linear(normed, p.gate), up) : at::gelu(up);
  return x + ops::linear(active, p.down, p.down_bias);
}

}  // namespace tessera::ops
