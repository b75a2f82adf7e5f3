#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

namespace tessera::losses {

/// A learnable softmax temperature τ, held as log(1/τ) in the parameter `log_inverse` (0-dim): a step of the
/// optimizer then changes τ by a ratio, and τ stays positive.
class Temperature : public torch::nn::Module {
 public:
  /// @param temperature initial τ
  /// @param minimum     floor of τ; 0 < minimum <= temperature
  /// @throws Error where they are not so
  Temperature(double temperature, double minimum);

  /// τ, 0-dim, never under its floor.
  ///
  /// The gradient is straight at the floor: it reaches the parameter as if there were no floor, because the
  /// zero gradient of a plain clamp would hold τ there for good. In training mode the parameter itself is
  /// first put back to the floor where the last update took it further (projected gradient descent), so that
  /// it has no way to come back from. Nothing is read by the host.
  at::Tensor value();

  double minimum() const { return minimum_; }

 private:
  at::Tensor log_inverse_;
  double minimum_;
};

}  // namespace tessera::losses
