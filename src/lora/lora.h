#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "lora/adaptable_module.h"
#include "lora/lora_options.h"
#include "lora/lora_targets.h"
#include "nn/linear.h"

namespace tessera::lora {

/// Freezes every parameter of the tree and gives each Linear that the options mean a trainable adapter, begun
/// as they say; what modules_to_save and bias name trains too. Knows nothing of the model but the names of
/// its modules. PiSSA and OLoRA take what the adapter begins with out of the base weight.
/// @return the adapted modules' names
/// @throws Error naming the option that is out of range, or the target that matches nothing
std::vector<std::string> inject_lora(AdaptableModule& root, const LoraOptions& options, std::uint64_t seed);

/// What the options say of one module's adapter.
/// @param names  of the architecture that the module is of
nn::LoraAdapterOptions adapter_options(const LoraOptions& options, const std::string& module,
                                       const ModuleNames& names);

/// Fills an adapter as `init` says. @return what the base weight has to become, undefined where it stays
at::Tensor initialise_adapter(const nn::LinearImpl& linear, nn::LoraAdapter& adapter, LoraInit init,
                              const at::Generator& generator);

/// "….lora_A.weight", "….lora_B.weight" and with DoRA "….lora_magnitude_vector" → the parameter itself.
TensorMap lora_parameters(torch::nn::Module& root);
/// The same, and the base model's parameters that belong to the adapter (parameters_beside_adapters).
TensorMap adapter_parameters(AdaptableModule& root, const LoraOptions& options);

/// Whether a dotted parameter name is an adapter's.
bool is_lora_parameter(const std::string& name);

void set_lora_trainable(AdaptableModule& root, const LoraOptions& options, bool trainable);

/// DoRA's magnitudes as fresh adapters have them, where the base weights have been exchanged since.
void restart_magnitudes(torch::nn::Module& root);

/// Adds every adapter of the tree to its weight, for good (LinearImpl::merge_lora). What the modules compute
/// stays the same within rounding, in evaluation mode.
void merge_lora(torch::nn::Module& root);

}  // namespace tessera::lora
