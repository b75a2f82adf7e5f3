#include "nn/checkpointed.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <mutex>
#include <vector>

#include "core/autocast.h"

namespace tessera::nn {

namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Block = std::function<at::Tensor(const at::Tensor&)>;

/// The states of the generators that dropout may draw from: the CPU's, and the device's.
class RandomState {
 public:
  explicit RandomState(const at::Device& device) {
    generators_.push_back(at::detail::getDefaultCPUGenerator());
    if (device.is_cuda()) generators_.push_back(at::globalContext().defaultGenerator(device));
    for (at::Generator& generator : generators_) {
      const std::lock_guard<std::mutex> lock(generator.mutex());
      states_.push_back(generator.get_state());
    }
  }
  void restore() {
    for (std::size_t i = 0; i < generators_.size(); ++i) {
      const std::lock_guard<std::mutex> lock(generators_[i].mutex());
      generators_[i].set_state(states_[i]);
    }
  }

 private:
  std::vector<at::Generator> generators_;
  std::vector<at::Tensor> states_;
};

/// What the backward pass needs beside tensors.
struct Recipe : torch::CustomClassHolder {
  Recipe(Block block, const at::Device& device)
      : block(std::move(block)), random(device), autocast(AutocastState::of(device.type())) {}
  Block block;
  RandomState random;
  AutocastState autocast;  ///< as it was in the forward pass
};

class CheckpointFunction : public torch::autograd::Function<CheckpointFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x,
                            const c10::intrusive_ptr<Recipe>& recipe, at::TensorList parameters) {
    variable_list saved = {x};
    saved.insert(saved.end(), parameters.begin(), parameters.end());
    context->save_for_backward(saved);
    context->saved_data["recipe"] = c10::IValue::make_capsule(recipe);
    context->saved_data["wants_x"] = x.requires_grad();
    return recipe->block(x);
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "a checkpointed block is differentiable once only");
    const variable_list saved = context->get_saved_variables();
    Recipe& recipe = *c10::static_intrusive_pointer_cast<Recipe>(context->saved_data["recipe"].toCapsule());
    const bool wants_x = context->saved_data["wants_x"].toBool();
    const at::Tensor x = saved[0].detach().requires_grad_(wants_x);
    RandomState present(x.device());
    at::Tensor y;
    {
      const at::AutoGradMode record(true);
      const AutocastScope autocast(recipe.autocast);
      recipe.random.restore();
      y = recipe.block(x);
    }
    present.restore();
    variable_list inputs;
    if (wants_x) inputs.push_back(x);
    inputs.insert(inputs.end(), saved.begin() + 1, saved.end());
    variable_list found = torch::autograd::grad({y}, inputs, {grads[0]}, /*retain_graph=*/std::nullopt,
                                                /*create_graph=*/false, /*allow_unused=*/true);
    variable_list result;
    std::size_t next = 0;
    result.push_back(wants_x ? found[next++] : at::Tensor());
    result.emplace_back();  // of the recipe
    for (; next < found.size(); ++next) result.push_back(found[next]);
    return result;
  }
};

}  // namespace

at::Tensor checkpointed(const at::Tensor& x, torch::nn::Module& module, const Block& block) {
  std::vector<at::Tensor> parameters;
  for (const at::Tensor& parameter : module.parameters()) {
    if (parameter.requires_grad()) parameters.push_back(parameter);
  }
  if (!at::GradMode::is_enabled() || (parameters.empty() && !x.requires_grad())) return block(x);
  return CheckpointFunction::apply(x, c10::make_intrusive<Recipe>(block, x.device()),
                                   at::TensorList(parameters));
}

}  // namespace tessera::nn
