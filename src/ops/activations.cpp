#include "ops/activations.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <mutex>

#include "ops/activation_kernel.h"

namespace tessera::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
/// Elements that are worth a thread of their own.
constexpr std::int64_t kGrain = 16384;

bool has_kernel(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }

/// Calls work(first, count) for runs of elements, all but the last of whole vectors.
template <typename Work>
void for_runs(std::int64_t count, const Work& work) {
  constexpr std::int64_t kRun = 16;
  at::parallel_for(0, (count + kRun - 1) / kRun, kGrain / kRun, [&](std::int64_t begin, std::int64_t end) {
    work(begin * kRun, std::min(end * kRun, count) - begin * kRun);
  });
}

void check_first_derivative(const char* name) {
  TORCH_CHECK(!at::GradMode::is_enabled(), name, " is differentiable once only");
}

class SwigluFunction : public torch::autograd::Function<SwigluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& gate_input,
                            const at::Tensor& up_input) {
    const at::Tensor gate = gate_input.contiguous(), up = up_input.contiguous();
    const at::Tensor y = at::empty_like(gate);
    const float *g = gate.const_data_ptr<float>(), *u = up.const_data_ptr<float>();
    float* to = y.mutable_data_ptr<float>();
    for_runs(gate.numel(), [&](std::int64_t first, std::int64_t count) {
      swiglu_forward(g + first, u + first, to + first, count);
    });
    context->save_for_backward({gate, up});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    check_first_derivative("swiglu");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor grad = grads[0].contiguous();
    const at::Tensor grad_gate = at::empty_like(saved[0]), grad_up = at::empty_like(saved[1]);
    const float *dy = grad.const_data_ptr<float>(), *g = saved[0].const_data_ptr<float>(),
                *u = saved[1].const_data_ptr<float>();
    float *dg = grad_gate.mutable_data_ptr<float>(), *du = grad_up.mutable_data_ptr<float>();
    for_runs(grad.numel(), [&](std::int64_t first, std::int64_t count) {
      swiglu_backward(dy + first, g + first, u + first, {dg + first, du + first, nullptr}, count);
    });
    return {grad_gate, grad_up};
  }
};

std::uint64_t draw_seed() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();  // a handle
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return at::check_generator<at::CPUGeneratorImpl>(generator)->random64();
}

at::Tensor dropped(const at::Tensor& input, const Drop& drop) {
  const at::Tensor x = input.contiguous();
  const at::Tensor y = at::empty_like(x);
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  for_runs(x.numel(), [&](std::int64_t first, std::int64_t count) {
    drop_elements(from + first, to + first, first, count, drop);
  });
  return y;
}

class DropoutFunction : public torch::autograd::Function<DropoutFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, double probability) {
    const std::uint64_t seed = draw_seed();
    context->saved_data["seed"] = static_cast<std::int64_t>(seed);
    context->saved_data["probability"] = probability;
    return dropped(x, drop_of(seed, probability));
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    check_first_derivative("dropout");
    const auto seed = static_cast<std::uint64_t>(context->saved_data["seed"].toInt());
    return {dropped(grads[0], drop_of(seed, context->saved_data["probability"].toDouble())), at::Tensor()};
  }

 private:
  static Drop drop_of(std::uint64_t seed, double probability) {
    constexpr double kHashes = 4294967296.0;
    return {seed, static_cast<std::uint32_t>(probability * kHashes),
            static_cast<float>(1 / (1 - probability))};
  }
};

}  // namespace

at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up) {
  TORCH_CHECK(gate.sizes() == up.sizes(), "swiglu: gate and up of one shape expected, got ", gate.sizes(),
              " and ", up.sizes());
  return has_kernel(gate) && has_kernel(up) ? SwigluFunction::apply(gate, up) : at::silu(gate) * up;
}

at::Tensor dropout(const at::Tensor& x, double probability) {
  TORCH_CHECK(probability >= 0 && probability < 1, "dropout: a probability in [0, 1) expected, got ",
              probability);
  if (probability == 0) return x;
  return has_kernel(x) ? DropoutFunction::apply(x, probability) : at::dropout(x, probability, /*train=*/true);
}

}  // namespace tessera::ops
