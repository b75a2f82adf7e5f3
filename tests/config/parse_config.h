#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "config/config.h"
#include "core/error.h"

namespace tessera {

inline Config parse(const std::string& yaml, const std::vector<std::string>& overrides = {},
                    const std::filesystem::path& folder = "/data/configs") {
  return parse_config(yaml, "test.yaml", folder, overrides);
}

/// The message of the ConfigError that is thrown, or "" where none is.
inline std::string complaint(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
  try {
    parse(yaml, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return {};
}

}  // namespace tessera
