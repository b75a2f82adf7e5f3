#include "ops/cpu/activation_kernel.h"

#include <cstring>

#include "ops/cpu/vectors.h"

namespace tessera::ops::cpu {
namespace {

template <std::int64_t kBytes>
using Floats = typename Vectors<float, kBytes>::Values;

template <std::int64_t kBytes>
TESSERA_INLINE void logistic(const Floats<kBytes>& x, Floats<kBytes>& result) {
  Floats<kBytes> power = x < 0 ? x : -x;
  exp_not_positive<Vectors<float, kBytes>>(power);
  const Floats<kBytes> greater = 1.0F / (1.0F + power);
  result = x < 0 ? power * greater : greater;
}

template <std::int64_t kBytes>
TESSERA_INLINE void swiglu_forward_with(const float* gate, const float* up, float* y, std::int64_t count) {
  for_vectors<kBytes>(count, [&](std::int64_t i, auto part) TESSERA_INLINED {
    Floats<kBytes> g, u, sigmoid;
    load(g, gate + i, part);
    load(u, up + i, part);
    logistic<kBytes>(g, sigmoid);
    store(g * sigmoid * u, y + i, part);
  });
}

template <std::int64_t kBytes>
TESSERA_INLINE void swiglu_backward_with(const float* grad, const float* gate, const float* up,
                                         const SwigluTargets& to, std::int64_t count) {
  for_vectors<kBytes>(count, [&](std::int64_t i, auto part) TESSERA_INLINED {
    Floats<kBytes> g, u, sigmoid, gradient;
    load(g, gate + i, part);
    load(u, up + i, part);
    load(gradient, grad + i, part);
    logistic<kBytes>(g, sigmoid);
    store(gradient * g * sigmoid, to.up + i, part);
    store(gradient * u * sigmoid * (1.0F + g * (1.0F - sigmoid)), to.gate + i, part);
    if (to.y != nullptr) store(g * sigmoid * u, to.y + i, part);
  });
}

/// Φ(x), and exp(−x²/2) for who needs the density too. Φ(−|x|) = exp(−x²/2) · t · P(t) with
/// t = 1/(1 + 0.35|x|), the polynomial fitted to the least greatest relative error, 3e-8.
template <std::int64_t kBytes>
TESSERA_INLINE void normal_distribution(const Floats<kBytes>& x, Floats<kBytes>& cumulative,
                                        Floats<kBytes>& power) {
  const Floats<kBytes> size = x < 0 ? -x : x;
  const Floats<kBytes> t = 1.0F / (1.0F + 0.35F * size);
  Floats<kBytes> p = t * -0.029109357F + 0.14379024F;
  p = p * t - 0.25533131F;
  p = p * t + 0.15872647F;
  p = p * t - 0.022793679F;
  p = p * t + 0.10537037F;
  p = p * t + 0.11986881F;
  p = p * t + 0.13985674F;
  p = p * t + 0.13962170F;
  power = x * x * -0.5F;
  exp_not_positive<Vectors<float, kBytes>>(power);
  const Floats<kBytes> tail = p * t * power;
  cumulative = x < 0 ? tail : 1.0F - tail;
}

template <std::int64_t kBytes>
TESSERA_INLINE void gelu_forward_with(const float* x, float* y, std::int64_t count) {
  for_vectors<kBytes>(count, [&](std::int64_t i, auto part) TESSERA_INLINED {
    Floats<kBytes> value, cumulative, power;
    load(value, x + i, part);
    normal_distribution<kBytes>(value, cumulative, power);
    store(value * cumulative, y + i, part);
  });
}

template <std::int64_t kBytes>
TESSERA_INLINE void gelu_backward_with(const float* grad, const float* x, float* grad_x, float* y,
                                       std::int64_t count) {
  constexpr float kDensityAtZero = 0.39894228F;  // 1/√(2π)
  for_vectors<kBytes>(count, [&](std::int64_t i, auto part) TESSERA_INLINED {
    Floats<kBytes> value, gradient, cumulative, power;
    load(value, x + i, part);
    load(gradient, grad + i, part);
    normal_distribution<kBytes>(value, cumulative, power);
    store(gradient * (cumulative + value * power * kDensityAtZero), grad_x + i, part);
    if (y != nullptr) store(value * cumulative, y + i, part);
  });
}

/// A permutation of 32 bits whose every output bit depends on every input bit (Wellons' "lowbias32").
template <typename Bits>
TESSERA_INLINE void mix(Bits& bits) {
  bits ^= bits >> 16;
  bits *= 0x7feb352dU;
  bits ^= bits >> 15;
  bits *= 0x846ca68bU;
  bits ^= bits >> 16;
}

template <std::int64_t kBytes>
TESSERA_INLINE void drop_elements_with(const float* x, float* y, std::int64_t first, std::int64_t count,
                                       const Drop& drop) {
  using Bits = typename Vectors<float, kBytes>::Bits;
  Bits lanes;
  for (std::int64_t lane = 0; lane < Vectors<float, kBytes>::kLanes; ++lane)
    lanes[lane] = static_cast<std::uint32_t>(lane);
  for_vectors<kBytes>(count, [&](std::int64_t i, auto part) TESSERA_INLINED {
    const auto place = static_cast<std::uint64_t>(first + i);
    Bits bits = lanes + static_cast<std::uint32_t>(place);
    bits ^= static_cast<std::uint32_t>(drop.seed);
    mix(bits);
    bits ^= static_cast<std::uint32_t>(drop.seed >> 32) + static_cast<std::uint32_t>(place >> 32);
    mix(bits);
    Floats<kBytes> value;
    load(value, x + i, part);
    store(bits < drop.below ? Floats<kBytes>{} : value * drop.scale, y + i, part);
  });
}

}  // namespace

TESSERA_KERNEL(void, swiglu_forward, (const float* gate, const float* up, float* y, std::int64_t count),
               (gate, up, y, count))
TESSERA_KERNEL(void, swiglu_backward,
               (const float* grad, const float* gate, const float* up, const SwigluTargets& to,
                std::int64_t count),
               (grad, gate, up, to, count))
TESSERA_KERNEL(void, gelu_forward, (const float* x, float* y, std::int64_t count), (x, y, count))
TESSERA_KERNEL(void, gelu_backward,
               (const float* grad, const float* x, float* grad_x, float* y, std::int64_t count),
               (grad, x, grad_x, y, count))
TESSERA_KERNEL(void, drop_elements,
               (const float* x, float* y, std::int64_t first, std::int64_t count, const Drop& drop),
               (x, y, first, count, drop))

}  // namespace tessera::ops::cpu
