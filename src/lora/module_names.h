#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::lora {

/// Hugging Face may have two namings for the modules of one model. Of DINOv2, files of weights carry the
/// legacy one, and so do our modules ("attention.attention.query", "attention.output.dense"); transformers 5
/// calls the modules "attention.q_proj", …, "attention.o_proj", and adapters made there carry these names.
enum class ModuleNaming { kLegacy, kCurrent };

/// How the model that an adapter was made on calls its modules.
struct NamesInFile {
  ModuleNaming naming = ModuleNaming::kCurrent;
  std::string prefix;  ///< a wrapper's, or empty
};

/// What the modules of one architecture are called in files: a table that stands beside the architecture
/// (vision/dinov2_names.h). Everything else here knows an architecture by it alone. Paths are dotted, of
/// modules or of parameters, and names in them are whole segments.
struct ModuleNames {
  struct Alias {
    std::string_view legacy;  ///< which is also the one here
    std::string_view current;
  };
  /// Modules of one shape here and in the current naming that are one matrix in the legacy one, their rows
  /// one behind another (joined_modules.h).
  struct Joined {
    std::string_view legacy;
    std::vector<std::string_view> current;
  };

  std::string_view architecture;  ///< in messages
  std::vector<Alias> aliases;     ///< a longer legacy name before any that it contains
  std::vector<Joined> joined;
  /// What classes with a head (Dinov2ForImageClassification) put before the backbone's paths ("dinov2.").
  std::vector<std::string_view> wrapper_prefixes;
  /// What paths into the backbone, and not into a head, begin with ("encoder."); empty: every path leads
  /// there.
  std::vector<std::string_view> backbone;
  /// Modules that "all-linear" does not mean: the product with the vocabulary, as in PEFT.
  std::vector<std::string_view> output_heads;

  /// Rewrites the module names in a path into a naming. A path that already has it, or that holds none of
  /// these modules, stays as it is. In the legacy naming parts of a joined module all have its name; the
  /// current one has no single name for it, which then stays.
  std::string renamed(const std::string& path, ModuleNaming naming) const;
  /// From either naming to the path of the module or parameter here.
  std::string path_here(const std::string& path) const;

  /// The prefix that a path or key begins with; empty where it begins with none.
  std::string_view wrapper_prefix(std::string_view path) const;
  std::string without_wrapper_prefix(const std::string& path) const;
  /// Whether a path, plain or behind a wrapper's prefix, leads into the backbone.
  bool is_in_backbone(std::string_view path) const;
  /// Whether a path or key can only be of the legacy naming.
  bool is_legacy(const std::string& path) const;

  /// The names that a module goes by: the one that `in_file` means, or where that is empty any that Hugging
  /// Face has for it, in both namings, plain and behind each wrapper's prefix.
  /// @param path  in any of them
  std::vector<std::string> names_of(const std::string& path, const std::optional<NamesInFile>& in_file) const;

  /// Of a name in a list of targets, a last segment ("query") or a path: the names that it has in the naming;
  /// of a joined module the current one has several.
  std::vector<std::string> renamed_targets(const std::string& target, ModuleNaming naming) const;
};

/// Where `part` stands in `path` as whole segments; npos where it doesn't.
std::size_t find_segments(std::string_view path, std::string_view part);
std::string_view last_segment(std::string_view path);

/// What PEFT puts before the paths of the model that it wraps, and a key of its files without that.
inline const std::string kPeftPrefix = "base_model.model.";
std::string without_peft_prefix(const std::string& key);

/// Whether `end` is all of a dotted path, or its last segments: PEFT's rule for names in lists.
bool has_last_segments(std::string_view path, std::string_view end);

}  // namespace tessera::lora
