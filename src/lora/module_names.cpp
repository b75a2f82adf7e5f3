#include "lora/module_names.h"

#include <array>
#include <string_view>

namespace tessera::lora {

namespace {

struct Alias {
  std::string_view legacy;
  std::string_view current;
};

// In this order: a longer legacy name before any that it contains.
constexpr std::array<Alias, 5> kAliases = {{
    {"attention.attention.query", "attention.q_proj"},
    {"attention.attention.key", "attention.k_proj"},
    {"attention.attention.value", "attention.v_proj"},
    {"attention.output.dense", "attention.o_proj"},
    {"mlp.weights_out", "mlp.down_proj"},
}};

constexpr std::array<std::string_view, 2> kWrapperPrefixes = {"dinov2.", "dinov2_with_registers."};

/// One matrix in legacy files (gate_names.h).
constexpr std::array<std::string_view, 2> kHalves = {"mlp.gate_proj", "mlp.up_proj"};
constexpr std::string_view kWhole = "mlp.weights_in";

/// Where `part` stands in `path` as whole segments; npos where it doesn't.
std::size_t find_segments(std::string_view path, std::string_view part) {
  for (std::size_t at = path.find(part); at != std::string_view::npos; at = path.find(part, at + 1)) {
    const std::size_t end = at + part.size();
    if ((at == 0 || path[at - 1] == '.') && (end == path.size() || path[end] == '.')) {
      return at;
    }
  }
  return std::string_view::npos;
}

}  // namespace

std::string rename_path(const std::string& path, ModuleNaming naming) {
  if (naming == ModuleNaming::kLegacy) {
    for (const std::string_view half : kHalves) {
      const std::size_t at = find_segments(path, half);
      if (at != std::string_view::npos) return std::string(path).replace(at, half.size(), kWhole);
    }
    return path_here(path);
  }
  for (const Alias& alias : kAliases) {
    const std::size_t at = find_segments(path, alias.legacy);
    if (at != std::string_view::npos)
      return std::string(path).replace(at, alias.legacy.size(), alias.current);
  }
  return path;
}

std::string_view wrapper_prefix(std::string_view path) {
  for (const std::string_view prefix : kWrapperPrefixes) {
    if (path.starts_with(prefix)) return prefix;
  }
  return {};
}

std::string without_wrapper_prefix(const std::string& path) {
  return path.substr(wrapper_prefix(path).size());
}

std::string without_peft_prefix(const std::string& key) {
  return key.starts_with(kPeftPrefix) ? key.substr(kPeftPrefix.size()) : key;
}

bool has_last_segments(std::string_view path, std::string_view end) {
  return path.ends_with(end) && (path.size() == end.size() || path[path.size() - end.size() - 1] == '.');
}

bool is_in_backbone(std::string_view path) {
  const std::string_view plain = path.substr(wrapper_prefix(path).size());
  return plain.starts_with("embeddings.") || plain.starts_with("encoder.") || plain.starts_with("layernorm.");
}

std::vector<std::string> names_of(const std::string& path, const std::optional<ModuleNames>& names) {
  const std::string plain = without_wrapper_prefix(path);
  if (names) {
    const std::string name = rename_path(plain, names->naming);
    return {is_in_backbone(plain + ".") ? names->prefix + name : name};
  }
  std::vector<std::string> all;
  for (const ModuleNaming naming : {ModuleNaming::kLegacy, ModuleNaming::kCurrent}) {
    all.push_back(rename_path(plain, naming));
    for (const std::string_view prefix : kWrapperPrefixes)
      all.push_back(std::string(prefix) + rename_path(plain, naming));
  }
  return all;
}

std::string path_here(const std::string& path) {
  for (const Alias& alias : kAliases) {
    const std::size_t at = find_segments(path, alias.current);
    if (at != std::string_view::npos)
      return std::string(path).replace(at, alias.current.size(), alias.legacy);
  }
  return path;
}

}  // namespace tessera::lora
