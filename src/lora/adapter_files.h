#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "lora/peft_files.h"

namespace tessera::lora {

// What can be said and done about an adapter's files without the model that they belong to.

/// One adapted module as a file holds it.
struct AdaptedModule {
  std::string name;  ///< under the file's naming
  std::int64_t r = 0;
  double alpha = 0;
  double scaling = 0;
  std::int64_t in_features = 0, out_features = 0;
};

/// The naming that an adapter's keys have; the current one where they don't tell.
ModuleNaming naming_of(const AdapterFiles& files);

/// In the order of the names; layers by their number.
/// @throws Error naming the tensor that is missing, or whose shape or rank is not what the configuration says
std::vector<AdaptedModule> adapted_modules(const AdapterFiles& files);
/// The matrix of a module (".lora_A.weight", ".lora_B.weight").
/// @throws Error where it is missing, or no matrix of a float type
const at::Tensor& matrix_of(const AdapterFiles& files, const std::string& module, const std::string& which);
/// ΔW = s·B·A of one of them, [out, in] float64.
at::Tensor weight_update(const AdapterFiles& files, const AdaptedModule& module);

/// The same adapter in another naming: keys, targets and patterns. Tensors stay what they are, byte for byte.
/// Where a regular expression, patterns, exclusions or layers select modules, the result names each module.
/// @throws Error where a module has no name in that naming
AdapterFiles convert_adapter(const AdapterFiles& files, ModuleNaming naming);

/// The same adapter with keys, targets and modules_to_save as in the plain backbone, without the prefix of a
/// class that wraps it (Dinov2ForImageClassification); what it has of a head stays.
AdapterFiles without_wrapper(const AdapterFiles& files);
/// The part of an adapter of a class with a head (Dinov2ForImageClassification) that belongs to the backbone,
/// as an adapter of the plain backbone: keys and targets without the wrapper's prefix, nothing of the head.
/// @throws Error where nothing is left
AdapterFiles without_head(const AdapterFiles& files);

/// Writes both files. @throws Error where the folder exists already or can't be written
void write_adapter(const std::filesystem::path& folder, const AdapterFiles& files);

}  // namespace tessera::lora
