#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <vector>

namespace tessera::nn {

// Parameters of one shape that lie one behind another, so that several products are one.

/// Moves parameters of one shape into one piece of memory, where they don't lie so already.
void lay_together(const std::vector<at::Tensor*>& parameters);

/// Whether each begins where the one before it ends.
bool lie_together(const std::vector<at::Tensor>& tensors);

/// `count` that lie together as one, the first dimension that many times as long; without gradient.
at::Tensor together(const at::Tensor& first, std::int64_t count);

/// A module with such parameters, which another device or type gives memory of their own each.
class PackedModule : public torch::nn::Module {
 public:
  void to(torch::Device device, torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Dtype dtype, bool non_blocking = false) override;
  void to(torch::Device device, bool non_blocking = false) override;

 protected:
  /// Calls lay_together for each group.
  virtual void pack() = 0;
};

}  // namespace tessera::nn
