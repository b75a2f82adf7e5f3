#include "config/config.h"

#include <fmt/format.h>

#include "config/config_reader.h"
#include "config/config_render.h"
#include "config/config_table.h"
#include "core/error.h"
#include "core/file_kind.h"
#include "core/text_file.h"

namespace tessera {
namespace {

/// Links in the folder's own path are followed, so that ".." may later be taken off textually.
std::filesystem::path canonical_folder(const std::filesystem::path& folder) {
  return std::filesystem::weakly_canonical(std::filesystem::absolute(folder));
}

}  // namespace

Config parse_config(const std::string& yaml, const std::string& name, const std::filesystem::path& folder,
                    const std::vector<std::string>& overrides) {
  Config config;
  ConfigReader reader(name, config_table(config));
  reader.read_text(yaml, canonical_folder(folder));
  const auto working_folder = canonical_folder(std::filesystem::current_path());
  for (const auto& override : overrides) reader.read_override(override, working_folder);
  check_config(config, reader);
  return config;
}

Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides) {
  std::string yaml;
  try {
    yaml = read_text_file(file);
    refuse_other_kind(yaml, file.string(), "configuration", {FileKind::kText, FileKind::kEmpty});
  } catch (const Error& error) {
    throw ConfigError(fmt::format("configuration file: {}", error.what()));
  }
  return parse_config(yaml, file.string(), std::filesystem::absolute(file).parent_path(), overrides);
}

std::string to_yaml(const Config& config) {
  Config rendered = config;
  return render_config(config_table(rendered), {});
}

}  // namespace tessera
