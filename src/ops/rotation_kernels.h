#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

/// What a device's kernel of ops/rotation.h is made of (ops/kernels.h). All tensors are contiguous and of one
/// dtype.

namespace tessera::ops {

struct RotationKernel {
  bool (*serves)(c10::ScalarType dtype);
  /// x [B, T, heads, D] turned by the angles [T, D/2], or by their negatives: the inverse, which is the
  /// transpose and so the backward pass.
  at::Tensor (*rotate)(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse);
};

}  // namespace tessera::ops
