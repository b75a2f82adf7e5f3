#include "config/config_table.h"

#include <algorithm>
#include <string>
#include <utility>

#include "config/config.h"
#include "core/config_rows.h"

namespace tessera {

namespace {

ConfigRows config_rows(Config& config) {
  using namespace config_kinds;
  return rows(
      "", {TESSERA_SECTION(config.run), TESSERA_SECTION(config.data), TESSERA_SECTION(config.vision),
           TESSERA_SECTION(config.lora), TESSERA_SECTION(config.compressor), TESSERA_SECTION(config.language),
           TESSERA_SECTION(config.fusion), TESSERA_SECTION(config.memory), TESSERA_SECTION(config.losses),
           TESSERA_SECTION(config.schedule), TESSERA_SECTION(config.optimizer),
           TESSERA_SECTION(config.checkpoint), TESSERA_SECTION(config.eval),
           TESSERA_KEY(text, config.init_from, TextKind::kInputPath,
                       "Checkpoint folder whose weights a new run starts from; empty: none")});
}

/// The part of `path` directly below `section`, or nothing where it lies elsewhere or deeper.
std::string_view name_below(std::string_view path, std::string_view section) {
  if (!section.empty()) {
    if (path.size() <= section.size() || path.substr(0, section.size()) != section ||
        path[section.size()] != '.') {
      return {};
    }
    path.remove_prefix(section.size() + 1);
  }
  return path.find('.') == std::string_view::npos ? path : std::string_view{};
}

template <typename Entries>
auto find_path(const Entries& entries, std::string_view path) -> decltype(entries.data()) {
  const auto found =
      std::find_if(entries.begin(), entries.end(), [&](const auto& entry) { return entry.path == path; });
  return found == entries.end() ? nullptr : &*found;
}

}  // namespace

ConfigTable config_table(Config& config) { return ConfigTable(config_rows(config)); }

std::vector<ConfigDifference> differences(const Config& one, const Config& other) {
  Config first = one, second = other;
  const ConfigTable of_first = config_table(first), of_second = config_table(second);
  std::vector<ConfigDifference> found;
  for (std::size_t i = 0; i < of_first.keys().size(); ++i) {
    ConfigDifference values{of_first.keys()[i].path, value_as_yaml(of_first.keys()[i]),
                            value_as_yaml(of_second.keys()[i])};
    if (values.one != values.other) found.push_back(std::move(values));
  }
  return found;
}

const ConfigKey* ConfigTable::find_key(std::string_view path) const& { return find_path(keys(), path); }
const ConfigSection* ConfigTable::find_section(std::string_view path) const& {
  return find_path(sections(), path);
}

std::vector<std::string> ConfigTable::names_in_section(std::string_view section) const {
  std::vector<std::string> names;
  const auto add = [&](const auto& entries) {
    for (const auto& entry : entries) {
      if (const auto name = name_below(entry.path, section); !name.empty()) names.emplace_back(name);
    }
  };
  add(keys());
  add(sections());
  return names;
}

}  // namespace tessera
