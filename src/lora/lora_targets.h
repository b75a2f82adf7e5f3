#pragma once

#include <torch/nn/module.h>

#include <set>
#include <string>
#include <vector>

#include "lora/adaptable_module.h"
#include "lora/lora_options.h"
#include "nn/linear.h"

namespace tessera::lora {

/// A Linear of a module tree, with its dotted path from the root.
struct NamedLinear {
  std::string name;
  nn::LinearImpl* linear;
};

/// Every Linear of the tree, in the order of registration.
std::vector<NamedLinear> named_linears(torch::nn::Module& root);
/// Those with an adapter.
std::vector<NamedLinear> adapted_linears(torch::nn::Module& root);

/// Those that the options mean, in the order of the tree, by PEFT's rules and under the names that the
/// options mean (LoraOptions::in_file): a target of a list matches the whole path or its last segments, a
/// regular expression the whole path; exclude_modules, what modules_to_save holds and layers other than
/// layers_to_transform are left out.
/// @throws Error listing the candidates where a target, or all of them together, match nothing
std::vector<NamedLinear> match_targets(AdaptableModule& root, const LoraOptions& options);

/// Whether match_targets gives just the modules of these paths.
bool means_just(AdaptableModule& root, const LoraOptions& options, const std::set<std::string>& modules);

/// Whether a module lies in one that modules_to_save names, or is one.
bool is_within_saved(const std::string& path, const LoraOptions& options, const ModuleNames& names);

/// PEFT lets names pass that mean nothing in exclude_modules, rank_pattern and alpha_pattern. A configuration
/// that was written by hand should not.
/// @throws Error naming the field and the name
void refuse_unused_names(AdaptableModule& root, const LoraOptions& options);

/// The parameters of the base model that train and are saved with the adapter: those of modules_to_save, and
/// the biases that `bias` asks for. Names are the tree's.
/// @throws Error listing the candidates where modules_to_save names nothing, or a module and one inside it
std::vector<std::string> parameters_beside_adapters(AdaptableModule& root, const LoraOptions& options);

}  // namespace tessera::lora
