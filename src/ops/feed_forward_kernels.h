#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "ops/feed_forward.h"

/// What a device's kernel of ops/feed_forward.h is made of (ops/kernels.h). All tensors are contiguous and of
/// one dtype.

namespace tessera::ops {

struct FeedForwardForward {
  at::Tensor y;                   ///< […, C]
  std::vector<at::Tensor> saved;  ///< what the backward pass wants beside x and the parameters
};

struct FeedForwardGradients {
  at::Tensor x;            ///< […, C]
  FeedForward parameters;  ///< each like its parameter; undefined where they weren't wanted
};

struct FeedForwardKernel {
  /// @param width, inner  C and F
  bool (*serves)(c10::ScalarType dtype, std::int64_t width, std::int64_t inner);
  FeedForwardForward (*forward)(const at::Tensor& x, const FeedForward& parameters);
  FeedForwardGradients (*backward)(const at::Tensor& grad, const at::Tensor& x, const FeedForward& parameters,
                                   const std::vector<at::Tensor>& saved, bool wants_parameters);
};

}  // namespace tessera::ops
