#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::ops {

/// silu(gate) · up, the gated half of a SwiGLU network (Shazeer 2020), in one pass. @param gate, up of one
/// shape
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

/// Inverted dropout: each element is 0 with this probability, and the others are scaled by 1/(1 −
/// probability). One number of the device's generator seeds a call. On the CPU in float32 each element's fate
/// is then a hash of seed and place, so that all threads can compute it and nothing is kept for the backward
/// pass; LibTorch's otherwise.
at::Tensor dropout(const at::Tensor& x, double probability);

}  // namespace tessera::ops
