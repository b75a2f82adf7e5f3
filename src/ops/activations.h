#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

namespace tessera::ops {

/// silu(gate) · up, the gated half of a SwiGLU network (Shazeer 2020), in one pass. @param gate, up of one
/// shape
at::Tensor swiglu(const at::Tensor& gate, const at::Tensor& up);

/// How many tensors like gate it keeps for the backward pass: its arguments; LibTorch's operations silu(gate)
/// too.
int swiglu_keeps(c10::Device device, c10::ScalarType dtype);

/// Inverted dropout: each element is 0 with this probability, and the others are scaled by 1/(1 −
/// probability). Where a kernel serves (on the CPU in float32), one number of the device's generator seeds a
/// call, and each element's fate is a hash of seed and place, so that all threads can compute it and nothing
/// is kept for the backward pass; LibTorch's otherwise.
at::Tensor dropout(const at::Tensor& x, double probability);

/// How many tensors like x it keeps for the backward pass: none, or what LibTorch's multiplied by.
int dropout_keeps(c10::Device device, c10::ScalarType dtype);

}  // namespace tessera::ops
