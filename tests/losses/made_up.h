#pragma once

#include <ATen/ATen.h>
#include <torch/nn/functional/normalization.h>

#include <cstdint>
#include <limits>
#include <vector>

namespace tessera::losses {

// What the tests of the losses make up.

inline at::Tensor ids(const std::vector<std::int64_t>& values) { return at::tensor(values, at::kLong); }
inline at::Tensor flags(const std::vector<int>& values) { return at::tensor(values).to(at::kBool); }
inline at::Tensor tau(double value) { return at::scalar_tensor(value, at::kDouble); }

/// The age of queue entries where none is too old.
inline at::Tensor any_age() { return at::scalar_tensor(std::numeric_limits<std::int64_t>::max(), at::kLong); }

/// [rows, width] of length 1.
inline at::Tensor unit_rows(std::int64_t rows, std::int64_t width, at::ScalarType dtype = at::kDouble) {
  return torch::nn::functional::normalize(at::randn({rows, width}, at::kDouble)).to(dtype);
}

}  // namespace tessera::losses
