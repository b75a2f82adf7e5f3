#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>

/// What a device's kernel of ops/linear.h is made of (ops/kernels.h). All tensors are contiguous and of one
/// dtype; none has a size of 0.

namespace tessera::ops {

/// Which gradients of a product are wanted; that of its bias not without that of its weight.
struct WantedOfLinear {
  bool x, weight, bias;
};

struct LinearGradients {
  at::Tensor x, weight, bias;  ///< undefined where they weren't wanted
};

/// x […, in] · weightᵀ [in, out] + bias
struct LinearKernel {
  /// @param rows  of x
  bool (*serves)(c10::ScalarType dtype, std::int64_t rows);
  /// @param bias  [out] or undefined
  at::Tensor (*forward)(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);
  /// @param x  undefined where no gradient of the weight is wanted
  LinearGradients (*backward)(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                              const WantedOfLinear& wanted);
};

}  // namespace tessera::ops
