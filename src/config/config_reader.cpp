#include "config/config_reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include "core/error.h"

namespace tessera {
namespace {

template <typename... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw ConfigError(fmt::format(format, std::forward<Args>(args)...));
}

// ---- what a node holds ----

bool is_quoted(const YAML::Node& node) { return node.Tag() == "!"; }

std::string describe(const YAML::Node& node) {
  if (node.IsSequence()) return fmt::format("a list of {}", node.size());
  if (node.IsMap()) return "a section";
  if (!node.IsScalar()) return "nothing";
  constexpr std::size_t kLongest = 60;
  const std::string& text = node.Scalar();
  const std::string shown = text.size() > kLongest ? text.substr(0, kLongest) + "…" : text;
  return is_quoted(node) ? fmt::format("the string \"{}\"", shown) : fmt::format("'{}'", shown);
}

template <typename T>
std::optional<T> parse_plain(const YAML::Node& node) {
  if (!node.IsScalar() || is_quoted(node)) return std::nullopt;
  const std::string& text = node.Scalar();
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

// ---- a value into its member ----

/// `folder` is canonical, so that a ".." in `path` climbs where the file system would climb.
std::string resolve(const std::string& path, const std::filesystem::path& folder) {
  if (path.empty()) return path;
  auto resolved = (folder / path).lexically_normal();
  if (!resolved.has_filename() && resolved.has_relative_path()) resolved = resolved.parent_path();
  return resolved.string();
}

/// Puts a node's value into the member of its key; returns the node that doesn't fit, or nothing.
struct Assign {
  using Misfit = std::optional<YAML::Node>;

  const YAML::Node& node;
  const std::filesystem::path& folder;

  Misfit operator()(const BooleanValue& value) const {
    if (!node.IsScalar() || is_quoted(node)) return node;
    const std::string& text = node.Scalar();
    const bool is_true = text == "true" || text == "True" || text == "TRUE";
    if (!is_true && text != "false" && text != "False" && text != "FALSE") return node;
    *value.member = is_true;
    return {};
  }

  Misfit operator()(const IntegerValue& value) const {
    const auto parsed = parse_plain<std::int64_t>(node);
    if (!parsed || !value.range.contains(*parsed)) return node;
    *value.member = *parsed;
    return {};
  }

  Misfit operator()(const NumberValue& value) const {
    const auto parsed = parse_plain<double>(node);
    if (!parsed || !value.range.contains(*parsed)) return node;
    *value.member = *parsed;
    return {};
  }

  Misfit operator()(const TextValue& value) const {
    const bool is_input = value.kind == TextKind::kInputPath || value.kind == TextKind::kInputPathOrRandom;
    const bool may_be_empty = is_input || value.kind == TextKind::kText;
    if (!node.IsScalar() && !node.IsNull()) return node;
    std::string text = node.IsNull() ? std::string() : node.Scalar();
    if (text.find('\0') != std::string::npos) return node;
    if (text.empty() && !may_be_empty) return node;
    if (value.kind == TextKind::kName &&
        (text.find('/') != std::string::npos || text == "." || text == "..")) {
      return node;
    }
    const bool is_path = is_input && !(value.kind == TextKind::kInputPathOrRandom && text == "random");
    *value.member = is_path ? resolve(text, folder) : std::move(text);
    return {};
  }

  Misfit operator()(const WordValue& value) const {
    if (!node.IsScalar()) return node;
    const auto found = std::find(value.words.begin(), value.words.end(), node.Scalar());
    if (found == value.words.end()) return node;
    value.set(static_cast<std::size_t>(found - value.words.begin()));
    return {};
  }

  Misfit operator()(const TextListValue& value) const { return texts(*value.member, value.is_input_path); }

  Misfit operator()(const NumberListValue& value) const {
    if (node.size() != value.length) return node;
    return numbers(*value.member, value.range);
  }
  Misfit operator()(const IntegerListValue& value) const { return numbers(*value.member, value.range); }

  Misfit operator()(const NamesOrPatternValue& value) const {
    if (node.IsScalar() && is_text(node)) {
      const bool is_word = node.Scalar() == value.word;
      *value.names = is_word ? std::vector{node.Scalar()} : std::vector<std::string>{};
      *value.pattern = is_word ? std::string() : node.Scalar();
      return {};
    }
    value.pattern->clear();
    return texts(*value.names, /*are_input_paths=*/false);
  }

  template <typename Number, typename Range>
  Misfit operator()(const NamedValues<Number, Range>& value) const {
    if (!node.IsMap()) return node;
    std::vector<std::pair<std::string, Number>> list;
    for (const auto& entry : node) {
      const YAML::Node &name = entry.first, &number = entry.second;
      const auto parsed = parse_plain<Number>(number);
      if (!is_text(name)) return Misfit(name);
      if (!parsed || !value.range.contains(*parsed)) return Misfit(number);
      for (const auto& [known, known_number] : list) {
        if (known == name.Scalar()) return Misfit(name);
      }
      list.emplace_back(name.Scalar(), *parsed);
    }
    *value.member = std::move(list);
    return {};
  }

 private:
  static bool is_text(const YAML::Node& item) {
    return item.IsScalar() && !item.Scalar().empty() && item.Scalar().find('\0') == std::string::npos;
  }

  Misfit texts(std::vector<std::string>& member, bool are_input_paths) const {
    if (!node.IsSequence()) return node;
    std::vector<std::string> list;
    for (const auto& item : node) {
      if (!is_text(item)) return Misfit(item);
      list.push_back(are_input_paths ? resolve(item.Scalar(), folder) : item.Scalar());
    }
    member = std::move(list);
    return {};
  }

  template <typename Number, typename Range>
  Misfit numbers(std::vector<Number>& member, const Range& range) const {
    if (!node.IsSequence()) return node;
    std::vector<Number> list;
    for (const auto& item : node) {
      const auto parsed = parse_plain<Number>(item);
      if (!parsed || !range.contains(*parsed)) return Misfit(item);
      list.push_back(*parsed);
    }
    member = std::move(list);
    return {};
  }
};

/// Puts `node` into its key's member. @returns nothing, or what doesn't fit: "'many'", "'-1' in it"
std::optional<std::pair<YAML::Node, std::string>> misfit_of(const ConfigKey& key, const YAML::Node& node,
                                                            const std::filesystem::path& folder) {
  const auto misfit = std::visit(Assign{node, folder}, key.value);
  if (!misfit) return {};
  const bool is_inside = (node.IsSequence() || node.IsMap()) && !misfit->is(node);
  return std::pair(is_inside && misfit->IsNull() ? node : *misfit,
                   describe(*misfit) + (is_inside ? " in it" : ""));
}

// ---- names that are nearly right ----

/// Edits (insert, delete, replace, swap of neighbours) that turn one word into the other.
std::size_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<std::vector<std::size_t>> cost(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        cost[i][j] = i + j;
        continue;
      }
      const std::size_t replaced = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({replaced, cost[i - 1][j] + 1, cost[i][j - 1] + 1});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

/// "; did you mean 'X'?" where a name of the section is close or the same name stands elsewhere, else "".
std::string suggestion(const std::string& name, const std::vector<std::string>& accepted,
                       const ConfigTable& table) {
  constexpr std::size_t kLongestName = 64;
  if (name.empty() || name.size() > kLongestName) return {};
  const std::string* nearest = nullptr;
  std::size_t least = std::max<std::size_t>(2, name.size() / 3) + 1;
  for (const auto& candidate : accepted) {
    const std::size_t distance = edit_distance(name, candidate);
    if (distance < least && distance < candidate.size()) {
      least = distance;
      nearest = &candidate;
    }
  }
  if (nearest != nullptr) return fmt::format("; did you mean '{}'?", *nearest);
  for (const auto& key : table.keys()) {
    if (key.path.ends_with("." + name)) return fmt::format("; did you mean '{}'?", key.path);
  }
  return {};
}

std::string unknown_key(const std::string& name, const std::string& section, const ConfigTable& table) {
  const auto accepted = table.names_in_section(section);
  return fmt::format("unknown key{}; {} accepts: {}", suggestion(name, accepted, table),
                     section.empty() ? "the top level" : "section " + section, fmt::join(accepted, ", "));
}

std::string join(const std::string& section, const std::string& name) {
  return section.empty() ? name : section + "." + name;
}

}  // namespace

// ---- the file ----

/// Goes through one document, section by section.
class ConfigReader::Walk {
 public:
  Walk(ConfigReader& reader, const std::filesystem::path& folder) : reader_(reader), folder_(folder) {}

  void section(const YAML::Node& node, const std::string& path) {
    std::map<std::string, YAML::Mark> seen;
    for (const auto& entry : node) {
      const YAML::Node& name_node = entry.first;
      if (!name_node.IsScalar()) {
        refuse("{}: expected a key, found {}", at(name_node.Mark(), path), describe(name_node));
      }
      const std::string& name = name_node.Scalar();
      const std::string full = join(path, name);
      const auto [first, is_new] = seen.emplace(name, name_node.Mark());
      if (!is_new) {
        refuse("{}: given twice; it stands in line {} already", at(name_node.Mark(), full),
               first->second.line + 1);
      }
      this->entry(name_node, entry.second, name, full, path);
    }
  }

  std::string at(const YAML::Mark& mark, const std::string& path) const {
    const auto place = fmt::format("{}:{}:{}", reader_.name_, mark.line + 1, mark.column + 1);
    return path.empty() ? place : fmt::format("{}: {}", place, path);
  }

 private:
  void entry(const YAML::Node& name_node, const YAML::Node& value, const std::string& name,
             const std::string& full, const std::string& section_path) {
    // An absent value has no place of its own.
    const YAML::Mark mark = value.IsNull() ? name_node.Mark() : value.Mark();
    if (name.find('.') != std::string::npos) {
      refuse("{}: unknown key; sections are written nested, one name a line", at(name_node.Mark(), full));
    }
    if (reader_.table_.find_section(full) != nullptr) {
      if (value.IsNull()) return;  // a section whose keys are all commented out
      if (!value.IsMap()) {
        refuse("{}: expected a section with the keys {}; found {}", at(mark, full),
               fmt::join(reader_.table_.names_in_section(full), ", "), describe(value));
      }
      section(value, full);
      return;
    }
    const ConfigKey* key = reader_.table_.find_key(full);
    if (key == nullptr)
      refuse("{}: {}", at(name_node.Mark(), full), unknown_key(name, section_path, reader_.table_));
    if (const auto misfit = misfit_of(*key, value, folder_)) {
      const auto& [node, found] = *misfit;
      refuse("{}: expected {}, found {}", at(node.is(value) ? mark : node.Mark(), full),
             accepted_values(*key), found);
    }
    reader_.origins_[full] = at(mark, full);
  }

  ConfigReader& reader_;
  const std::filesystem::path& folder_;
};

void ConfigReader::read_text(const std::string& yaml, const std::filesystem::path& folder) {
  const Walk walk_for_marks(*this, folder);
  std::vector<YAML::Node> documents;
  try {
    documents = YAML::LoadAll(yaml);
  } catch (const YAML::Exception& error) {
    refuse("{}: not valid YAML: {}", walk_for_marks.at(error.mark, ""), error.msg);
  }
  if (documents.size() > 1) {
    refuse("{}: expected one YAML document, found {}", walk_for_marks.at(documents[1].Mark(), ""),
           documents.size());
  }
  if (documents.empty() || documents[0].IsNull()) return;
  if (!documents[0].IsMap()) {
    refuse("{}: expected sections such as 'run:' and 'data:', found {}",
           walk_for_marks.at(documents[0].Mark(), ""), describe(documents[0]));
  }
  Walk(*this, folder).section(documents[0], "");
}

// ---- overrides ----

void ConfigReader::read_override(const std::string& override, const std::filesystem::path& folder) {
  const auto equals = override.find('=');
  if (equals == std::string::npos || equals == 0) {
    refuse("--set {}: expected KEY.PATH=VALUE, such as schedule.epochs=2", override);
  }
  const std::string path = override.substr(0, equals);
  const std::string where = "--set " + path;
  const ConfigKey* key = table_.find_key(path);
  if (key == nullptr) {
    if (table_.find_section(path) != nullptr) {
      refuse("{}: is a section; set one of its keys: {}", where,
             fmt::join(table_.names_in_section(path), ", "));
    }
    // The complaint names the innermost section that exists.
    std::string section = path;
    std::string name;
    do {
      const auto dot = section.rfind('.');
      name = dot == std::string::npos ? section : section.substr(dot + 1);
      section = dot == std::string::npos ? "" : section.substr(0, dot);
    } while (!section.empty() && table_.find_section(section) == nullptr);
    refuse("{}: {}", where, unknown_key(name, section, table_));
  }
  YAML::Node value;
  try {
    value = YAML::Load(override.substr(equals + 1));
  } catch (const YAML::Exception& error) {
    refuse(
        "{}: expected {}, found broken YAML: {} (inside [ ], put names with braces or commas in "
        "quotes; put an expression in single ones)",
        where, accepted_values(*key), error.msg);
  }
  if (const auto misfit = misfit_of(*key, value, folder)) {
    refuse("{}: expected {}, found {}", where, accepted_values(*key), misfit->second);
  }
  origins_[path] = where;
}

std::string ConfigReader::where(const std::string& key) const {
  const auto found = origins_.find(key);
  return found == origins_.end() ? name_ + ": " + key : found->second;
}

}  // namespace tessera
