#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/config_key.h"

namespace tessera {

struct Config;

/// The keys of a composed configuration, bound to one that has to outlive the table. Reader, writer, help
/// texts and what compares configurations all walk it.
class ConfigTable {
 public:
  explicit ConfigTable(ConfigRows rows) : rows_(std::move(rows)) {}

  /// Every key, those of one section together, in the order in which files are written.
  const std::vector<ConfigKey>& keys() const& { return rows_.keys; }
  const std::vector<ConfigKey>& keys() && = delete;
  /// Every section, an outer one before those inside it.
  const std::vector<ConfigSection>& sections() const& { return rows_.sections; }
  const std::vector<ConfigSection>& sections() && = delete;

  /// nullptr where there is none of that path.
  const ConfigKey* find_key(std::string_view path) const&;
  const ConfigKey* find_key(std::string_view path) && = delete;
  const ConfigSection* find_section(std::string_view path) const&;
  const ConfigSection* find_section(std::string_view path) && = delete;

  /// The names directly inside a section ("" is the whole file): its keys and sections.
  std::vector<std::string> names_in_section(std::string_view section) const;

 private:
  ConfigRows rows_;
};

ConfigTable config_table(Config& config);

/// A key whose value differs between two configurations, both as YAML.
struct ConfigDifference {
  std::string path, one, other;
};
/// In the order of the table.
std::vector<ConfigDifference> differences(const Config& one, const Config& other);

}  // namespace tessera
