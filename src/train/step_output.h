#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tessera::train {

/// What a step computes.
struct StepOutput {
  at::Tensor loss;                                          ///< 0-dim, to be differentiated
  std::vector<std::pair<std::string, at::Tensor>> metrics;  ///< 0-dim tensors on the device
};

/// What a loop needs to know of a batch.
struct BatchInfo {
  std::int64_t index = 0;         ///< in its epoch
  std::int64_t samples = 0;       ///< in it
  std::vector<std::string> keys;  ///< of these
};

}  // namespace tessera::train
