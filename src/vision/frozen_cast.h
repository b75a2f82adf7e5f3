#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace tessera::vision {

/// A weight in the type that autocast computes in. Autocast keeps its casts of what trains for a step, and
/// casts what is frozen anew at every use; here that is done once, and again when the weight has changed.
class FrozenCast {
 public:
  /// @return the weight itself where it trains or no autocast is on
  at::Tensor of(const at::Tensor& weight);

 private:
  at::Tensor cast_;
  const void* source_ = nullptr;
  std::uint32_t version_ = 0;
};

}  // namespace tessera::vision
