#pragma once

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>

namespace tessera::losses {

/// A loss as a sum and the number of terms in it, so that micro-batches and ranks of different sizes average
/// exactly: (Σ sum) / (Σ count), never a mean of means.
struct LossValue {
  at::Tensor sum;    ///< 0-dim, differentiable
  at::Tensor count;  ///< 0-dim, same dtype and device as sum, without gradient

  /// 0 where nothing was counted.
  at::Tensor mean() const { return sum / count.clamp_min(1); }
};

}  // namespace tessera::losses
