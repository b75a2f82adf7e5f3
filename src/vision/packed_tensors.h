#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace tessera::vision {

// Parameters of one shape that lie one behind another, so that several products are one.

/// Moves parameters of one shape into one piece of memory.
void lay_together(const std::vector<at::Tensor*>& parameters);

/// Whether each begins where the one before it ends.
bool lie_together(const std::vector<at::Tensor>& parts);

/// `count` that lie together as one, the first dimension that many times as long; without gradient.
at::Tensor together(const at::Tensor& first, std::int64_t count);

}  // namespace tessera::vision
