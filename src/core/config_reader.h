#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "core/config.h"

namespace tessera {

/// Fills a Config from YAML text and from overrides, key by key, and remembers where each value came from, so
/// that a later complaint can point at it.
class ConfigReader {
 public:
  /// @param name  stands for the file in messages
  explicit ConfigReader(std::string name) : name_(std::move(name)) {}

  /// Relative input paths resolve against `folder`.
  /// @throws ConfigError for broken YAML, unknown and repeated keys, wrong types and values out of range
  void read_text(const std::string& yaml, const std::filesystem::path& folder);

  /// One `KEY.PATH=VALUE`, VALUE in YAML; relative input paths resolve against `folder`.
  void read_override(const std::string& override, const std::filesystem::path& folder);

  const Config& config() const { return config_; }

  /// "FILE:LINE:COLUMN: KEY" or "--set KEY", whichever gave the key its value; "FILE: KEY" where neither did.
  std::string where(const std::string& key) const;

 private:
  class Walk;

  std::string name_;
  Config config_;
  std::map<std::string, std::string, std::less<>> origins_;
};

/// Checks that concern several keys. @throws ConfigError pointing at a key that takes part
void check_config(const ConfigReader& reader);

}  // namespace tessera
