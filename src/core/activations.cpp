#include "core/activations.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <mutex>

#include "core/vectors.h"

namespace tessera {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Lane = Vectors<float>;
using Floats = Lane::Values;
using Bits = Lane::Bits;
constexpr std::int64_t kLanes = Lane::kLanes;

/// Elements that are worth a thread of their own.
constexpr std::int64_t kGrain = 16384;

bool has_kernel(const at::Tensor& x) { return x.is_cpu() && x.scalar_type() == at::kFloat; }

/// Calls work(first, count) for runs of elements, all but the last of whole vectors.
template <typename Work>
void for_runs(std::int64_t count, const Work& work) {
  const std::int64_t vectors = (count + kLanes - 1) / kLanes;
  at::parallel_for(0, vectors, kGrain / kLanes, [&](std::int64_t begin, std::int64_t end) {
    work(begin * kLanes, std::min(end * kLanes, count) - begin * kLanes);
  });
}

/// The vector at `from`, of which `count` elements are there.
TESSERA_INLINE void load_some(Floats& vector, const float* from, std::int64_t count) {
  vector = Floats{};
  std::memcpy(&vector, from, static_cast<std::size_t>(std::min(count, kLanes)) * sizeof(float));
}

TESSERA_INLINE void store_some(const Floats& vector, float* to, std::int64_t count) {
  std::memcpy(to, &vector, static_cast<std::size_t>(std::min(count, kLanes)) * sizeof(float));
}

/// Φ(x) and φ(x), the normal distribution and its density. (Abramowitz & Stegun 7.1.26: the error function
/// within 1.5e-7.)
TESSERA_INLINE void normal_distribution(const Floats& x, Floats& distribution, Floats& density) {
  constexpr float kInverseRoot2 = 0.70710678F, kInverseRoot2Pi = 0.39894228F;
  const Floats magnitude = (x < 0 ? -x : x) * kInverseRoot2;
  Floats power = -(magnitude * magnitude);
  exp_not_positive(power);
  const Floats t = 1.0F / (1.0F + 0.3275911F * magnitude);
  Floats p = t * 1.061405429F - 1.453152027F;
  p = p * t + 1.421413741F;
  p = p * t - 0.284496736F;
  p = p * t + 0.254829592F;
  const Floats upper_tail = 0.5F * p * t * power;
  distribution = x < 0 ? upper_tail : 1.0F - upper_tail;
  density = power * kInverseRoot2Pi;
}

TESSERA_FOR_EACH_PROCESSOR
void gelu_forward(const float* x, float* y, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    Floats value, distribution, density;
    load_some(value, x + i, count - i);
    normal_distribution(value, distribution, density);
    store_some(value * distribution, y + i, count - i);
  }
}

TESSERA_FOR_EACH_PROCESSOR
void gelu_backward(const float* grad, const float* x, float* grad_x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    Floats value, gradient, distribution, density;
    load_some(value, x + i, count - i);
    load_some(gradient, grad + i, count - i);
    normal_distribution(value, distribution, density);
    store_some(gradient * (distribution + value * density), grad_x + i, count - i);
  }
}

TESSERA_INLINE void logistic(const Floats& x, Floats& result) {
  Floats power = x < 0 ? x : -x;
  exp_not_positive(power);
  const Floats greater = 1.0F / (1.0F + power);
  result = x < 0 ? power * greater : greater;
}

TESSERA_FOR_EACH_PROCESSOR
void swiglu_forward(const float* gate, const float* up, float* y, std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    Floats g, u, sigmoid;
    load_some(g, gate + i, count - i);
    load_some(u, up + i, count - i);
    logistic(g, sigmoid);
    store_some(g * sigmoid * u, y + i, count - i);
  }
}

TESSERA_FOR_EACH_PROCESSOR
void swiglu_backward(const float* grad, const float* gate, const float* up, float* grad_gate, float* grad_up,
                     std::int64_t count) {
  for (std::int64_t i = 0; i < count; i += kLanes) {
    Floats g, u, sigmoid, gradient;
    load_some(g, gate + i, count - i);
    load_some(u, up + i, count - i);
    load_some(gradient, grad + i, count - i);
    logistic(g, sigmoid);
    store_some(gradient * g * sigmoid, grad_up + i, count - i);
    store_some(gradient * u * sigmoid * (1.0F + g * (1.0F - sigmoid)), grad_gate + i, count - i);
  }
}

/// A permutation of 32 bits whose every output bit depends on every input bit (Wellons' "lowbias32").
TESSERA_INLINE void mix(Bits& bits) {
  bits ^= bits >> 16;
  bits *= 0x7feb352dU;
  bits ^= bits >> 15;
  bits *= 0x846ca68bU;
  bits ^= bits >> 16;
}

struct Drop {
  std::uint64_t seed;
  std::uint32_t below;  ///< elements whose hash is below are dropped
  float scale;          ///< of the others
};

/// @param first  place of x[0] among all elements
TESSERA_FOR_EACH_PROCESSOR
void drop_elements(const float* x, float* y, std::int64_t first, std::int64_t count, const Drop& drop) {
  Bits lanes;
  for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] = static_cast<std::uint32_t>(lane);
  for (std::int64_t i = 0; i < count; i += kLanes) {
    const auto place = static_cast<std::uint64_t>(first + i);
    Bits bits = lanes + static_cast<std::uint32_t>(place);
    bits ^= static_cast<std::uint32_t>(drop.seed);
    mix(bits);
    bits ^= static_cast<std::uint32_t>(drop.seed >> 32) + static_cast<std::uint32_t>(place >> 32);
    mix(bits);
    Floats value;
    load_some(value, x + i, count - i);
    store_some(bits < drop.below ? Floats{} : value * drop.scale, y + i, count - i);
  }
}

void check_first_derivative(const char* name) {
  TORCH_CHECK(!at::GradMode::is_enabled(), name, " is differentiable once only");
}

class GeluFunction : public torch::autograd::Function<GeluFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input) {
    const at::Tensor x = input.contiguous();
    const at::Tensor y = at::empty_like(x);
    const float* from = x.const_data_ptr<float>();
    float* to = y.mutable_data_ptr<float>();
    for_runs(x.numel(),
             [&](std::int64_t first, std::int64_t count) { gelu_forward(from + first, to + first, count); });
    context->save_for_backward({x});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    check_first_derivative("gelu");
    const at::Tensor x = context->get_saved_variables()[0];
    const at::Tensor grad = grads[0].contiguous();
    const at::Tensor grad_x = at::empty_like(x);
    const float *dy = grad.const_data_ptr<float>(), *from = x.const_data_ptr<float>();
    float* dx = grad_x.mutable_data_ptr<float>();
    for_runs(x.numel(), [&](std::int64_t first, std::int64_t count) {
      gelu_backward(dy + first, from + first, dx + first, count);
    });
    return {grad_x};
  }
};

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
      swiglu_backward(dy + first, g + first, u + first, dg + first, du + first, count);
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

at::Tensor exact_gelu(const at::Tensor& x) { return has_kernel(x) ? GeluFunction::apply(x) : at::gelu(x); }

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

}  // namespace tessera
