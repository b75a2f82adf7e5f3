#pragma once

#include <functional>
#include <string>

#include "config/config_table.h"

namespace tessera {

/// What stands above a section or key of a rendered configuration; long lines are broken between words.
struct ConfigComments {
  std::function<std::string(const ConfigSection&)> section;
  std::function<std::string(const ConfigKey&)> key;
};

/// A configuration as nested YAML, every key once, with comments above lines where there are any.
std::string render_config(const ConfigTable& table, const ConfigComments& comments);

}  // namespace tessera
