#include "vision/lora.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>

#include "core/error.h"
#include "vision/module_names.h"

namespace tessera::vision {

namespace {

constexpr const char* kAllLinear = "all-linear";

bool is_all_linear(const std::vector<std::string>& target_modules) {
  return target_modules.size() == 1 && target_modules.front() == kAllLinear;
}

bool is_suffix(const std::string& path, const std::string& target) {
  return path == target || (path.ends_with(target) && path.size() > target.size() && !target.empty() &&
                            path[path.size() - target.size() - 1] == '.');
}

bool matches(const std::string& path, const std::string& target) {
  return is_suffix(rename_path(path, ModuleNaming::kLegacy), target) ||
         is_suffix(rename_path(path, ModuleNaming::kCurrent), target);
}

/// What a reader of the message could have written: the last segments, in both namings.
std::vector<std::string> candidate_names(const std::vector<NamedLinear>& linears) {
  std::set<std::string> names;
  for (const NamedLinear& item : linears) {
    for (const ModuleNaming naming : {ModuleNaming::kLegacy, ModuleNaming::kCurrent}) {
      const std::string path = rename_path(item.name, naming);
      names.insert(path.substr(path.rfind('.') + 1));
    }
  }
  return {names.begin(), names.end()};
}

}  // namespace

LoraOptions LoraOptions::from_config(const LoraConfig& config) {
  return {.r = config.r,
          .lora_alpha = config.lora_alpha,
          .lora_dropout = config.lora_dropout,
          .target_modules = config.target_modules,
          .use_rslora = config.use_rslora};
}

double LoraOptions::scaling() const {
  const auto rank = static_cast<double>(r);
  return lora_alpha / (use_rslora ? std::sqrt(rank) : rank);
}

void LoraOptions::check(const std::string& source) const {
  if (r < 1 || r > 65536) {
    fail("{}: r: expected 1 to 65536, found {}", source, r);
  }
  if (!std::isfinite(lora_alpha)) {
    fail("{}: lora_alpha: expected a finite number, found {}", source, lora_alpha);
  }
  if (!(lora_dropout >= 0 && lora_dropout < 1)) {
    fail("{}: lora_dropout: expected at least 0 and less than 1, found {}", source, lora_dropout);
  }
  if (target_modules.empty()) {
    fail("{}: target_modules: expected names of modules or \"{}\", found none", source, kAllLinear);
  }
}

std::vector<NamedLinear> named_linears(torch::nn::Module& root) {
  std::vector<NamedLinear> linears;
  for (const auto& item : root.named_modules(/*name_prefix=*/{}, /*include_self=*/false)) {
    if (auto* linear = dynamic_cast<LinearImpl*>(item.value().get())) {
      linears.push_back({item.key(), linear});
    }
  }
  return linears;
}

std::vector<NamedLinear> adapted_linears(torch::nn::Module& root) {
  std::vector<NamedLinear> linears = named_linears(root);
  std::erase_if(linears, [](const NamedLinear& item) { return !item.linear->has_lora(); });
  return linears;
}

std::vector<NamedLinear> match_targets(torch::nn::Module& root,
                                       const std::vector<std::string>& target_modules) {
  std::vector<NamedLinear> linears = named_linears(root);
  if (is_all_linear(target_modules)) {
    return linears;
  }
  for (const std::string& target : target_modules) {
    const bool found = std::any_of(linears.begin(), linears.end(),
                                   [&](const NamedLinear& item) { return matches(item.name, target); });
    if (!found) {
      fail("target_modules: \"{}\" matches no linear module; there are {} (or \"{}\" alone for all)", target,
           fmt::join(candidate_names(linears), ", "), kAllLinear);
    }
  }
  std::erase_if(linears, [&](const NamedLinear& item) {
    return std::none_of(target_modules.begin(), target_modules.end(),
                        [&](const std::string& target) { return matches(item.name, target); });
  });
  return linears;
}

std::vector<std::string> inject_lora(torch::nn::Module& root, const LoraOptions& options,
                                     std::uint64_t seed) {
  options.check("LoRA");
  const std::vector<NamedLinear> targets = match_targets(root, options.target_modules);
  if (targets.empty()) {
    fail("target_modules: \"{}\" matches no linear module; there are none", kAllLinear);
  }
  TORCH_CHECK(adapted_linears(root).empty(), "inject_lora: the modules have adapters already");
  for (at::Tensor& parameter : root.parameters()) {
    parameter.set_requires_grad(false);
  }
  at::Generator generator = at::detail::createCPUGenerator(seed);
  std::vector<std::string> names;
  for (const NamedLinear& target : targets) {
    target.linear->add_lora({.r = options.r, .scaling = options.scaling(), .dropout = options.lora_dropout});
    const double bound = 1.0 / std::sqrt(static_cast<double>(target.linear->in_features()));
    const at::NoGradGuard no_grad;
    at::Tensor& a = target.linear->lora_a();
    a.copy_(at::empty(a.sizes(), at::kFloat).uniform_(-bound, bound, generator));
    names.push_back(target.name);
  }
  return names;
}

TensorMap lora_parameters(torch::nn::Module& root) {
  TensorMap parameters;
  for (const NamedLinear& item : adapted_linears(root)) {
    parameters[item.name + ".lora_A.weight"] = item.linear->lora_a();
    parameters[item.name + ".lora_B.weight"] = item.linear->lora_b();
  }
  return parameters;
}

bool is_lora_parameter(const std::string& name) {
  return is_suffix(name, "lora_A.weight") || is_suffix(name, "lora_B.weight");
}

void set_lora_trainable(torch::nn::Module& root, bool trainable) {
  for (auto& [name, parameter] : lora_parameters(root)) {
    parameter.set_requires_grad(trainable);
  }
}

void merge_lora(torch::nn::Module& root) {
  for (const NamedLinear& item : adapted_linears(root)) item.linear->merge_lora();
}

}  // namespace tessera::vision
