#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::lora {

/// Hugging Face has two namings for the modules of one model. Files of weights carry the legacy one, and so
/// do our modules ("attention.attention.query", "attention.output.dense"); transformers 5 calls the modules
/// "attention.q_proj", …, "attention.o_proj", and adapters made there carry these names. SwiGLU's gate_proj
/// and up_proj have these names here too: in the legacy naming they are one matrix (gate_names.h).
enum class ModuleNaming { kLegacy, kCurrent };

/// Rewrites the module names in a dotted path, of a module or of a parameter, into a naming. A path that
/// already has it, or that holds none of these modules, stays as it is. In the legacy naming gate_proj and
/// up_proj are both weights_in; the current one has no single name for weights_in, which then stays.
std::string rename_path(const std::string& path, ModuleNaming naming);

/// What a class with a head (Dinov2ForImageClassification) puts before the backbone's paths: "dinov2." or
/// "dinov2_with_registers."; empty where a path or key begins with neither.
std::string_view wrapper_prefix(std::string_view path);

std::string without_wrapper_prefix(const std::string& path);

/// What PEFT puts before the paths of the model that it wraps, and a key of its files without that.
inline const std::string kPeftPrefix = "base_model.model.";
std::string without_peft_prefix(const std::string& key);

/// Whether `end` is all of a dotted path, or its last segments: PEFT's rule for names in lists.
bool has_last_segments(std::string_view path, std::string_view end);

/// Whether a path, plain or behind a wrapper's prefix, leads into the backbone and not into a head.
bool is_in_backbone(std::string_view path);

/// How the model that an adapter was made on calls its modules.
struct ModuleNames {
  ModuleNaming naming = ModuleNaming::kCurrent;
  std::string prefix;  ///< a wrapper's, or empty
};

/// The names that a module goes by: the one that `names` means, or where that is empty any that Hugging Face
/// has for it, in both namings, plain and behind each wrapper's prefix.
/// @param path  in any of them
std::vector<std::string> names_of(const std::string& path, const std::optional<ModuleNames>& names);

/// From either naming to the path of the module or parameter here.
std::string path_here(const std::string& path);

}  // namespace tessera::lora
