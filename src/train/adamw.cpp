#include "train/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <map>

#include "core/archive.h"
#include "core/error.h"

namespace tessera::train {

namespace {

/// Numbers of a tensor that one thread updates; larger ones are split among all.
constexpr std::int64_t kSmall = 1 << 17;

}  // namespace

AdamW::AdamW(std::vector<ParameterGroup> groups, const OptimizerConfig& config)
    : groups_(std::move(groups)), config_(config) {
  for (const ParameterGroup& group : groups_) {
    TORCH_CHECK(group.names.size() == group.parameters.size(), "AdamW: group '", group.name, "' has ",
                group.names.size(), " names for ", group.parameters.size(), " parameters");
    std::vector<State> states;
    for (const at::Tensor& parameter : group.parameters) {
      states.push_back({at::zeros_like(parameter, at::MemoryFormat::Preserve),
                        at::zeros_like(parameter, at::MemoryFormat::Preserve),
                        at::zeros({}, parameter.options().dtype(at::kFloat).requires_grad(false))});
    }
    states_.push_back(std::move(states));
  }
}

void AdamW::zero_grad() {
  for (ParameterGroup& group : groups_) {
    for (at::Tensor& parameter : group.parameters) parameter.mutable_grad().reset();
  }
}

at::Tensor AdamW::clip(const std::vector<at::Tensor>& gradients) const {
  const at::Tensor norm = at::stack(at::_foreach_norm(gradients, 2)).norm(2);
  if (config_.clip_grad_norm > 0) {
    const at::Tensor scale = (config_.clip_grad_norm / (norm + 1e-6)).clamp_max(1.0);
    at::_foreach_mul_(gradients, scale);
  }
  return norm;
}

at::Tensor AdamW::step(const std::vector<double>& learning_rates, const at::Tensor& loss) {
  TORCH_CHECK(learning_rates.size() == groups_.size(), "AdamW: ", groups_.size(),
              " learning rates expected, got ", learning_rates.size());
  const c10::NoGradGuard no_grad;
  std::vector<at::Tensor> all_gradients;
  for (const ParameterGroup& group : groups_) {
    for (const at::Tensor& parameter : group.parameters) {
      if (parameter.grad().defined()) all_gradients.push_back(parameter.grad());
    }
  }
  TORCH_CHECK(!all_gradients.empty(), "AdamW: no parameter has a gradient");
  const at::Tensor norm = clip(all_gradients);
  const at::Tensor skip = (norm.isfinite().logical_and(loss.isfinite())).logical_not().to(at::kFloat);

  // The fused kernel wants its counts raised before the call; a skipped step takes that back.
  const at::Tensor counted = 1 - skip;
  std::vector<Update> small;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    Update update{g, {}, {}, {}, {}, {}};
    for (std::size_t i = 0; i < groups_[g].parameters.size(); ++i) {
      const at::Tensor& parameter = groups_[g].parameters[i];
      if (!parameter.grad().defined()) continue;
      states_[g][i].step.add_(counted);
      if (parameter.is_cpu() && parameter.numel() < kSmall) {
        small.push_back({g, {}, {}, {}, {}, {}});
        small.back().add(parameter, states_[g][i]);
      } else {
        update.add(parameter, states_[g][i]);
      }
    }
    if (!update.parameters.empty()) apply(update, learning_rates[g], skip);
  }
  // The kernel has a parallel region a tensor, which for small ones costs more than their update.
  at::parallel_for(0, static_cast<std::int64_t>(small.size()), 1, [&](std::int64_t begin, std::int64_t end) {
    const c10::NoGradGuard no_grad_in_this_thread;
    for (std::int64_t i = begin; i < end; ++i) {
      Update& update = small[static_cast<std::size_t>(i)];
      apply(update, learning_rates[update.group], skip);
    }
  });
  return norm;
}

void AdamW::Update::add(const at::Tensor& parameter, const State& state) {
  parameters.push_back(parameter);
  gradients.push_back(parameter.grad());
  first.push_back(state.first_moment);
  second.push_back(state.second_moment);
  steps.push_back(state.step);
}

void AdamW::apply(Update& update, double learning_rate, const at::Tensor& skip) const {
  at::_fused_adamw_(update.parameters, update.gradients, update.first, update.second, /*max_exp_avg_sqs=*/{},
                    update.steps, learning_rate, config_.beta1, config_.beta2,
                    groups_[update.group].weight_decay, config_.eps, /*amsgrad=*/false, /*maximize=*/false,
                    /*grad_scale=*/std::nullopt, /*found_inf=*/skip);
}

void AdamW::save(Archive& archive) const {
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (std::size_t i = 0; i < groups_[g].names.size(); ++i) {
      const std::string& name = groups_[g].names[i];
      archive.put("first_moment." + name, states_[g][i].first_moment);
      archive.put("second_moment." + name, states_[g][i].second_moment);
      archive.put("step." + name, states_[g][i].step);
    }
  }
}

std::size_t AdamW::load(const Archive& archive) {
  std::size_t taken = 0;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (std::size_t i = 0; i < groups_[g].names.size(); ++i) {
      const std::string& name = groups_[g].names[i];
      if (!archive.contains("first_moment." + name)) continue;
      State& state = states_[g][i];
      const at::Tensor first = archive.get("first_moment." + name);
      const at::Tensor second = archive.get("second_moment." + name);
      if (first.sizes() != state.first_moment.sizes() || second.sizes() != state.second_moment.sizes()) {
        fail("optimizer state of '{}' has another shape than the parameter", name);
      }
      state.first_moment.copy_(first);
      state.second_moment.copy_(second);
      state.step.copy_(archive.get("step." + name));
      ++taken;
    }
  }
  return taken;
}

std::size_t AdamW::carry_from(const AdamW& other) {
  std::map<std::string, const State*> known;
  for (std::size_t g = 0; g < other.groups_.size(); ++g) {
    for (std::size_t i = 0; i < other.groups_[g].names.size(); ++i) {
      known[other.groups_[g].names[i]] = &other.states_[g][i];
    }
  }
  std::size_t taken = 0;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    for (std::size_t i = 0; i < groups_[g].names.size(); ++i) {
      const auto found = known.find(groups_[g].names[i]);
      if (found == known.end()) continue;
      states_[g][i].first_moment.copy_(found->second->first_moment);
      states_[g][i].second_moment.copy_(found->second->second_moment);
      states_[g][i].step.copy_(found->second->step);
      ++taken;
    }
  }
  return taken;
}

}  // namespace tessera::train
