#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "config/config_table.h"

namespace tessera {

/// Fills a configuration from YAML text and from overrides, key by key, and remembers where each value came
/// from, so that a later complaint can point at it.
class ConfigReader {
 public:
  /// @param name   stands for the file in messages
  /// @param table  of the configuration that is to be filled
  ConfigReader(std::string name, ConfigTable table) : name_(std::move(name)), table_(std::move(table)) {}

  /// Relative input paths resolve against `folder`.
  /// @throws ConfigError for broken YAML, unknown and repeated keys, wrong types and values out of range
  void read_text(const std::string& yaml, const std::filesystem::path& folder);

  /// One `KEY.PATH=VALUE`, VALUE in YAML; relative input paths resolve against `folder`.
  void read_override(const std::string& override, const std::filesystem::path& folder);

  /// "FILE:LINE:COLUMN: KEY" or "--set KEY", whichever gave the key its value; "FILE: KEY" where neither did.
  std::string where(const std::string& key) const;

 private:
  class Walk;

  std::string name_;
  ConfigTable table_;
  std::map<std::string, std::string, std::less<>> origins_;
};

/// Checks that concern several keys.
/// @param reader  that filled the configuration
/// @throws ConfigError pointing at a key that takes part
void check_config(const Config& config, const ConfigReader& reader);

}  // namespace tessera
