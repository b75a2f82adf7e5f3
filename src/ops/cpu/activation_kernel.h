#pragma once

#include <cstdint>

/// Element-wise float32 kernels, on the calling thread.

namespace tessera::ops::cpu {

/// y = silu(gate) · up
void swiglu_forward(const float* gate, const float* up, float* y, std::int64_t count);

struct SwigluTargets {
  float *gate, *up;
  float* y;  ///< null, or where the output goes once more
};
void swiglu_backward(const float* grad, const float* gate, const float* up, const SwigluTargets& to,
                     std::int64_t count);

/// y = x · Φ(x), Φ the normal distribution's cumulative function (Hendrycks and Gimpel 2016, not the tanh
/// approximation), within 4e-7 of its size.
void gelu_forward(const float* x, float* y, std::int64_t count);
/// grad_x = grad · (Φ(x) + x · φ(x)). @param y null, or where the output goes once more
void gelu_backward(const float* grad, const float* x, float* grad_x, float* y, std::int64_t count);

struct Drop {
  std::uint64_t seed;
  std::uint32_t below;  ///< elements whose hash is below are dropped
  float scale;          ///< of the others
};

/// y = x, or 0 where the hash of seed and place says so. @param first place of x[0] among all elements
void drop_elements(const float* x, float* y, std::int64_t first, std::int64_t count, const Drop& drop);

}  // namespace tessera::ops::cpu
