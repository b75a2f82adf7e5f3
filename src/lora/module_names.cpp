#include "lora/module_names.h"

#include <algorithm>

#include "lora/adaptable_module.h"

namespace tessera::lora {

namespace {

/// `path` with `from` in it exchanged for `to`; nothing where it isn't in it.
std::optional<std::string> with_exchanged(const std::string& path, std::string_view from,
                                          std::string_view to) {
  const std::size_t at = find_segments(path, from);
  if (at == std::string_view::npos) return {};
  return std::string(path).replace(at, from.size(), to);
}

}  // namespace

const ModuleNames& AdaptableModule::module_names() const {
  static const ModuleNames paths;
  return paths;
}

std::size_t find_segments(std::string_view path, std::string_view part) {
  for (std::size_t at = path.find(part); at != std::string_view::npos; at = path.find(part, at + 1)) {
    const std::size_t end = at + part.size();
    if ((at == 0 || path[at - 1] == '.') && (end == path.size() || path[end] == '.')) {
      return at;
    }
  }
  return std::string_view::npos;
}

std::string_view last_segment(std::string_view path) { return path.substr(path.rfind('.') + 1); }

std::string without_peft_prefix(const std::string& key) {
  return key.starts_with(kPeftPrefix) ? key.substr(kPeftPrefix.size()) : key;
}

bool has_last_segments(std::string_view path, std::string_view end) {
  return path.ends_with(end) && (path.size() == end.size() || path[path.size() - end.size() - 1] == '.');
}

std::string ModuleNames::renamed(const std::string& path, ModuleNaming naming) const {
  if (naming == ModuleNaming::kLegacy) {
    for (const Joined& one : joined) {
      for (const std::string_view part : one.current) {
        if (const auto whole = with_exchanged(path, part, one.legacy)) return *whole;
      }
    }
    return path_here(path);
  }
  for (const Alias& alias : aliases) {
    if (const auto current = with_exchanged(path, alias.legacy, alias.current)) return *current;
  }
  return path;
}

std::string ModuleNames::path_here(const std::string& path) const {
  for (const Alias& alias : aliases) {
    if (const auto legacy = with_exchanged(path, alias.current, alias.legacy)) return *legacy;
  }
  return path;
}

std::string_view ModuleNames::wrapper_prefix(std::string_view path) const {
  for (const std::string_view prefix : wrapper_prefixes) {
    if (path.starts_with(prefix)) return prefix;
  }
  return {};
}

std::string ModuleNames::without_wrapper_prefix(const std::string& path) const {
  return path.substr(wrapper_prefix(path).size());
}

bool ModuleNames::is_in_backbone(std::string_view path) const {
  const std::string_view plain = path.substr(wrapper_prefix(path).size());
  return backbone.empty() || std::any_of(backbone.begin(), backbone.end(), [&](std::string_view beginning) {
           return plain.starts_with(beginning);
         });
}

bool ModuleNames::is_legacy(const std::string& path) const {
  return renamed(path, ModuleNaming::kCurrent) != path ||
         std::any_of(joined.begin(), joined.end(), [&](const Joined& one) {
           return find_segments(path, one.legacy) != std::string_view::npos;
         });
}

std::vector<std::string> ModuleNames::names_of(const std::string& path,
                                               const std::optional<NamesInFile>& in_file) const {
  const std::string plain = without_wrapper_prefix(path);
  if (in_file) {
    const std::string name = renamed(plain, in_file->naming);
    return {is_in_backbone(plain + ".") ? in_file->prefix + name : name};
  }
  std::vector<std::string> all;
  for (const ModuleNaming naming : {ModuleNaming::kLegacy, ModuleNaming::kCurrent}) {
    all.push_back(renamed(plain, naming));
    for (const std::string_view prefix : wrapper_prefixes)
      all.push_back(std::string(prefix) + renamed(plain, naming));
  }
  return all;
}

std::vector<std::string> ModuleNames::renamed_targets(const std::string& target, ModuleNaming naming) const {
  const auto means = [&](std::string_view name) {
    return has_last_segments(target, name) || has_last_segments(name, target);
  };
  for (const Joined& one : joined) {
    if (naming != ModuleNaming::kCurrent || !means(one.legacy)) continue;
    const std::string place = target.substr(0, target.size() - last_segment(one.legacy).size());
    std::vector<std::string> targets;
    for (const std::string_view part : one.current)
      targets.push_back(place + std::string(last_segment(part)));
    return targets;
  }
  if (target.find('.') != std::string::npos) return {renamed(target, naming)};
  for (const Joined& one : joined) {
    if (naming == ModuleNaming::kLegacy && std::any_of(one.current.begin(), one.current.end(), means))
      return {std::string(last_segment(one.legacy))};
  }
  for (const Alias& alias : aliases) {
    const bool to_current = naming == ModuleNaming::kCurrent;
    if (last_segment(to_current ? alias.legacy : alias.current) == target)
      return {std::string(last_segment(to_current ? alias.current : alias.legacy))};
  }
  return {target};
}

}  // namespace tessera::lora
