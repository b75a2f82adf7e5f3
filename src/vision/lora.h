#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/safetensors.h"
#include "vision/linear.h"

namespace tessera::vision {

/// Low-rank adaptation (Hu et al. 2021) with PEFT's names and meanings.
struct LoraOptions {
  std::int64_t r = 8;
  double lora_alpha = 8;
  double lora_dropout = 0;
  /// Suffixes of module names, whole segments: "query" is every module called query. Or the one word
  /// "all-linear".
  std::vector<std::string> target_modules;
  bool use_rslora = false;

  static LoraOptions from_config(const LoraConfig& config);

  /// s = α/r, with use_rslora α/√r.
  double scaling() const;
  /// @throws Error naming the field that is out of range
  void check(const std::string& source) const;
};

/// A Linear of a module tree, with its dotted path from the root.
struct NamedLinear {
  std::string name;
  LinearImpl* linear;
};

/// Every Linear of the tree, in the order of registration.
std::vector<NamedLinear> named_linears(torch::nn::Module& root);
/// Those with an adapter.
std::vector<NamedLinear> adapted_linears(torch::nn::Module& root);

/// Those that the targets mean, in the order of the tree. A target matches a module as PEFT's list does (the
/// whole path, or its last segments), under either of Hugging Face's namings (module_names.h).
/// @throws Error listing the candidates where a target matches nothing
std::vector<NamedLinear> match_targets(torch::nn::Module& root,
                                       const std::vector<std::string>& target_modules);

/// Freezes every parameter of the tree and gives each targeted Linear a trainable adapter:
/// A uniform in ±1/√in (kaiming_uniform with a = √5), B zero, so that nothing changes at first. Knows nothing
/// of the model but the names of its modules.
/// @return the adapted modules' names
/// @throws Error naming the option that is out of range, or the target that matches nothing
std::vector<std::string> inject_lora(torch::nn::Module& root, const LoraOptions& options, std::uint64_t seed);

/// "….lora_A.weight" and "….lora_B.weight" → the parameter itself.
TensorMap lora_parameters(torch::nn::Module& root);

/// Whether a dotted parameter name is an adapter's.
bool is_lora_parameter(const std::string& name);

void set_lora_trainable(torch::nn::Module& root, bool trainable);

/// Adds every adapter of the tree to its weight (LinearImpl::merge_lora). What the modules compute stays the
/// same within rounding, in evaluation mode.
void merge_lora(torch::nn::Module& root);

}  // namespace tessera::vision
