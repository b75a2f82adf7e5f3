#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>

/// What a device's kernels of ops/activations.h are made of (ops/kernels.h). Arguments are contiguous.

namespace tessera::ops {

struct SwigluGradients {
  at::Tensor gate, up;
};

/// silu(gate) · up of one shape
struct SwigluKernel {
  bool (*serves)(c10::ScalarType dtype);
  at::Tensor (*forward)(const at::Tensor& gate, const at::Tensor& up);
  SwigluGradients (*backward)(const at::Tensor& grad, const at::Tensor& gate, const at::Tensor& up);
};

/// Inverted dropout. The same elements for the same seed, so that it is its own backward pass.
struct DropoutKernel {
  bool (*serves)(c10::ScalarType dtype);
  /// Takes one number of the device's generator.
  std::uint64_t (*draw_seed)();
  at::Tensor (*drop)(const at::Tensor& x, std::uint64_t seed, double probability);
};

}  // namespace tessera::ops
