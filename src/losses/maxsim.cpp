#include "losses/maxsim.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/autocast.h"
#include "losses/maxsim_kernels.h"

namespace tessera::losses {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

MaxSimKernel chosen(MaxSimKernel kernel, const at::Tensor& patches) {
  if (kernel != MaxSimKernel::kAutomatic) return kernel;
  return patches.is_cpu() ? MaxSimKernel::kCpu : MaxSimKernel::kPortable;
}

class MaxSimFunction : public torch::autograd::Function<MaxSimFunction> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& patches, const at::Tensor& tokens,
                               const at::Tensor& mask, MaxSimKernel kernel) {
    const auto run = kernel == MaxSimKernel::kCpu ? maxsim_cpu_forward : maxsim_portable_forward;
    const MaxSimForward result = run(patches.contiguous(), tokens.contiguous(), mask.contiguous());
    context->save_for_backward(result.saved);
    context->saved_data["kernel"] = static_cast<std::int64_t>(kernel);
    return {result.scores.image_to_text, result.scores.text_to_image};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "maxsim is differentiable once only");
    const NoAutocast no_autocast;
    const auto kernel = static_cast<MaxSimKernel>(context->saved_data["kernel"].toInt());
    const auto run = kernel == MaxSimKernel::kCpu ? maxsim_cpu_backward : maxsim_portable_backward;
    const MaxSimGradients result =
        run(context->get_saved_variables(), {grads[0].contiguous(), grads[1].contiguous(),
                                             context->needs_input_grad(0), context->needs_input_grad(1)});
    return {result.patches, result.tokens, at::Tensor(), at::Tensor()};
  }
};

void check_arguments(const at::Tensor& patches, const at::Tensor& tokens, const at::Tensor& mask) {
  TORCH_CHECK(patches.dim() == 3 && patches.numel() > 0,
              "maxsim: patches must be [B, P, D], none of them 0, got ", patches.sizes());
  TORCH_CHECK(tokens.dim() == 3 && tokens.numel() > 0 && tokens.size(2) == patches.size(2),
              "maxsim: tokens must be [B, T, ", patches.size(2), "], none of them 0, got ", tokens.sizes());
  TORCH_CHECK(mask.sizes() == tokens.sizes().slice(0, 2) && mask.scalar_type() == at::kBool,
              "maxsim: mask must be ", tokens.sizes().slice(0, 2), " bool, got ", mask.sizes(), " ",
              mask.scalar_type());
  const at::ScalarType dtype = patches.scalar_type();
  TORCH_CHECK(dtype == at::kFloat || dtype == at::kDouble || dtype == at::kBFloat16,
              "maxsim: expected float32, float64 or bfloat16, got ", dtype);
  TORCH_CHECK(tokens.scalar_type() == dtype, "maxsim: tokens are ", tokens.scalar_type(), ", patches ",
              dtype);
  TORCH_CHECK(tokens.device() == patches.device() && mask.device() == patches.device(),
              "maxsim: patches are on ", patches.device(), ", tokens on ", tokens.device(), ", mask on ",
              mask.device());
}

}  // namespace

at::ScalarType index_dtype(std::int64_t count) {
  if (count <= 256) return at::kByte;
  return count <= 32768 ? at::kShort : at::kInt;
}

MaxSimScores maxsim(const at::Tensor& patches, const at::Tensor& tokens, const at::Tensor& mask,
                    MaxSimKernel kernel) {
  check_arguments(patches, tokens, mask);
  const MaxSimKernel choice = chosen(kernel, patches);
  TORCH_CHECK(choice != MaxSimKernel::kCpu || patches.is_cpu(), "maxsim: patches are on ", patches.device(),
              ", the kernel is for the CPU");
  const NoAutocast no_autocast;
  // A CPU's product of bfloat16 would round its sums to bfloat16 too; in float32 the products are exact.
  const bool widen = patches.is_cpu() && patches.scalar_type() == at::kBFloat16;
  const variable_list scores = MaxSimFunction::apply(widen ? patches.to(at::kFloat) : patches,
                                                     widen ? tokens.to(at::kFloat) : tokens, mask, choice);
  return {scores[0], scores[1]};
}

}  // namespace tessera::losses
