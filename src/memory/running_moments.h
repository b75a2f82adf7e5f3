#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>
#include <torch/nn/pimpl.h>

#include <cstdint>

namespace tessera::memory {

/// Mean and variance of each channel over the rows met in training: their plain averages at first, then
/// exponential ones of rate 1/100 a batch. Saved with the weights, and never trained.
///
/// Unlike batch normalisation this never looks at the batch it is applied to, so that one rank and several
/// compute the same.
class RunningMomentsImpl : public torch::nn::Module {
 public:
  explicit RunningMomentsImpl(std::int64_t channels);

  /// (rows − mean) / deviation; as they are before anything was observed.
  /// @param rows [B, channels]
  at::Tensor standardise(const at::Tensor& rows);
  /// Without gradient. @param rows [B, channels], of all ranks, so that all keep the same
  void observe(const at::Tensor& rows);

  at::Tensor mean, variance;  ///< [channels]
  at::Tensor batches;         ///< 0-dim: how many were observed
};
TORCH_MODULE(RunningMoments);

}  // namespace tessera::memory
