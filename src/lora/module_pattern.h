#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace tessera::lora {

/// A regular expression over module paths, in Perl's syntax, which for these is Python's (PCRE2: named
/// groups, look-around, (?i)). Matching gives up where an expression would take for ever.
class ModulePattern {
 public:
  /// @param field  names the expression's place in messages
  /// @throws Error naming field, expression and the place where it isn't well-formed
  ModulePattern(std::string expression, std::string field);

  /// Whether all of `path` matches (re.fullmatch).
  bool matches(const std::string& path) const;
  /// What the group of that name holds where all of `path` matches.
  std::optional<std::string> group(const std::string& path, const char* name) const;

 private:
  bool run(const std::string& path) const;

  std::string expression_, field_;
  std::shared_ptr<void> code_, data_;  ///< PCRE2's, whose header stays in the .cpp
};

/// PEFT's rule for the keys of rank_pattern and alpha_pattern: whether one of the names that a module goes by
/// (ModuleNames::names_of) ends in what the expression says.
bool pattern_names(const std::string& key, const char* field,
                   const std::vector<std::string>& names_of_module);

}  // namespace tessera::lora
