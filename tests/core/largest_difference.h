#pragma once

#include <ATen/ATen.h>

namespace tessera {

/// Of two tensors of one shape, in float64.
inline double largest_difference(const at::Tensor& left, const at::Tensor& right) {
  return (left.to(at::kDouble) - right.to(at::kDouble)).abs().max().item<double>();
}

}  // namespace tessera
