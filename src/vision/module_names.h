#pragma once

#include <string>

namespace tessera::vision {

/// Hugging Face has two namings for the modules of one model. Files of weights carry the legacy one, and so
/// do ours modules ("attention.attention.query", "attention.output.dense"); transformers 5 calls the modules
/// "attention.q_proj", …, "attention.o_proj", and adapters made there carry these names.
enum class ModuleNaming { kLegacy, kCurrent };

/// Rewrites the module names in a dotted path, of a module or of a parameter, into a naming. A path that
/// already has it, or that holds none of these modules, stays as it is.
std::string rename_path(const std::string& path, ModuleNaming naming);

}  // namespace tessera::vision
