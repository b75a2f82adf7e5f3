#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <mutex>

#include "ops/activation_kernels.h"
#include "ops/cpu/activation_kernel.h"
#include "ops/cpu/kernels.h"

namespace tessera::ops::cpu {
namespace {

bool serves_elements(c10::ScalarType dtype) { return dtype == at::kFloat; }

/// Elements that are worth a thread of their own.
constexpr std::int64_t kElementGrain = 16384;

/// Calls work(first, count) for runs of elements, all but the last of whole vectors.
template <typename Work>
void for_runs(std::int64_t count, const Work& work) {
  constexpr std::int64_t kRun = 16;
  at::parallel_for(0, (count + kRun - 1) / kRun, kElementGrain / kRun,
                   [&](std::int64_t begin, std::int64_t end) {
                     work(begin * kRun, std::min(end * kRun, count) - begin * kRun);
                   });
}

at::Tensor swiglu_forward_pass(const at::Tensor& gate, const at::Tensor& up) {
  const at::Tensor y = at::empty_like(gate);
  const float *g = gate.const_data_ptr<float>(), *u = up.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  for_runs(gate.numel(), [&](std::int64_t first, std::int64_t count) {
    swiglu_forward(g + first, u + first, to + first, count);
  });
  return y;
}

SwigluGradients swiglu_backward_pass(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up) {
  const at::Tensor grad_gate = at::empty_like(gate), grad_up = at::empty_like(up);
  const float *dy = grad.const_data_ptr<float>(), *g = gate.const_data_ptr<float>(),
              *u = up.const_data_ptr<float>();
  float *dg = grad_gate.mutable_data_ptr<float>(), *du = grad_up.mutable_data_ptr<float>();
  for_runs(grad.numel(), [&](std::int64_t first, std::int64_t count) {
    swiglu_backward(dy + first, g + first, u + first, {dg + first, du + first, nullptr}, count);
  });
  return {grad_gate, grad_up};
}

std::uint64_t draw_seed() {
  at::Generator generator = at::detail::getDefaultCPUGenerator();  // a handle
  const std::lock_guard<std::mutex> lock(generator.mutex());
  return at::check_generator<at::CPUGeneratorImpl>(generator)->random64();
}

at::Tensor dropped(const at::Tensor& x, std::uint64_t seed, double probability) {
  constexpr double kHashes = 4294967296.0;
  const Drop drop{seed, static_cast<std::uint32_t>(probability * kHashes),
                  static_cast<float>(1 / (1 - probability))};
  const at::Tensor y = at::empty_like(x);
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  for_runs(x.numel(), [&](std::int64_t first, std::int64_t count) {
    drop_elements(from + first, to + first, first, count, drop);
  });
  return y;
}

}  // namespace

const SwigluKernel kSwiglu{serves_elements, swiglu_forward_pass, swiglu_backward_pass};
const DropoutKernel kDropout{serves_elements, draw_seed, dropped};

}  // namespace tessera::ops::cpu
