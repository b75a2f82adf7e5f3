#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "config/training_config.h"

namespace tessera {
class Archive;
}

namespace tessera::train {

/// Parameters that share a learning rate and a weight decay.
struct ParameterGroup {
  std::string name;                ///< "language", "lora", …; what the log calls it
  std::vector<std::string> names;  ///< of the parameters, for the optimizer's file
  std::vector<at::Tensor> parameters;
  double peak_learning_rate = 0;  ///< before the schedule's factor
  double weight_decay = 0;
};

/// AdamW (Loshchilov & Hutter 2019) over ATen's fused kernel: one call a group and step instead of eight
/// kernels a tensor; on the CPU a call for each small tensor, many of them at a time. A step whose loss or
/// gradient norm is not finite changes nothing; that is decided on the device, without waiting for it.
class AdamW {
 public:
  /// @param config  but for its weight_decay, which each group has for itself; clip_grad_norm is of the norm
  ///                over all groups
  AdamW(std::vector<ParameterGroup> groups, const OptimizerConfig& config);

  void zero_grad();

  /// Clips, then updates every parameter that has a gradient.
  /// @param learning_rates one a group
  /// @param loss 0-dim; a value that is not finite skips the update
  /// @return the gradient norm before clipping, 0-dim float32 on the device
  at::Tensor step(const std::vector<double>& learning_rates, const at::Tensor& loss);

  const std::vector<ParameterGroup>& groups() const { return groups_; }

  /// Moments and step counts by parameter name.
  void save(Archive& archive) const;
  /// Takes the moments of the parameters that both know. Returns how many were taken; those that the archive
  /// lacks start afresh. Throws Error where a shape differs.
  std::size_t load(const Archive& archive);
  /// Takes over the moments of `other` by parameter name (schedule.rebuild: carry). Returns how many.
  std::size_t carry_from(const AdamW& other);

 private:
  struct State {
    at::Tensor first_moment;
    at::Tensor second_moment;
    at::Tensor step;  ///< 0-dim float32, counted on the device
  };

  /// Tensors of one group that the kernel is called with.
  struct Update {
    std::size_t group;
    std::vector<at::Tensor> parameters, gradients, first, second, steps;

    void add(const at::Tensor& parameter, const State& state);
  };

  void apply(Update& update, double learning_rate, const at::Tensor& skip) const;
  at::Tensor clip(const std::vector<at::Tensor>& gradients) const;

  std::vector<ParameterGroup> groups_;
  std::vector<std::vector<State>> states_;  ///< by group, as its parameters
  OptimizerConfig config_;
};

}  // namespace tessera::train
