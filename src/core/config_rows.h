#pragma once

#include <c10/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "core/config_key.h"

/// A section's table is a function of the struct that it describes. Its parameter is called as the section
/// is, so that a row's path is also the member, and can't be bound to another one:
///
///   ConfigRows config_rows(DataConfig& data) {
///     using namespace config_kinds;
///     return rows("Pictures and captions",
///                 {TESSERA_KEY(integer, data.batch_size, {1, 1 << 20}, "Pairs that each rank takes a step"),
///                  TESSERA_GROUP(data.table, "Columns of a CSV or TSV table"),
///                  TESSERA_KEY(text, data.table.image, TextKind::kText, "Column of the pictures' paths")});
///   }
///
/// @param kind  one of the functions below
#define TESSERA_KEY(kind, path, ...) kind(#path, path __VA_OPT__(, ) __VA_ARGS__)

/// A struct inside the section's, whose keys are rows of the same table.
#define TESSERA_GROUP(path, meaning) group(#path, path, meaning)

/// A struct that has a table of its own (a function config_rows beside it), here as `path`. What that
/// function takes beside the struct follows.
#define TESSERA_SECTION(path, ...) section(#path, config_rows(path __VA_OPT__(, ) __VA_ARGS__))

/// One function a kind of key, so that rows read as a table. For them alone.
namespace tessera::config_kinds {

inline constexpr std::int64_t kUnbounded = std::numeric_limits<std::int64_t>::max();
inline constexpr NumberRange kNonNegative{};
inline constexpr NumberRange kPositive{.minimum_is_open = true};
inline constexpr NumberRange kFraction{.minimum = 0, .maximum = 1};
/// Dropout and the like: at 1 nothing would be left.
inline constexpr NumberRange kBelowOne{.minimum = 0, .maximum = 1, .maximum_is_open = true};
inline constexpr NumberRange kPositiveFraction{.minimum = 0, .maximum = 1, .minimum_is_open = true};

inline ConfigKey boolean(std::string path, bool& member, std::string meaning) {
  return {std::move(path), BooleanValue{&member}, std::move(meaning)};
}

inline ConfigKey integer(std::string path, std::int64_t& member, IntegerRange range, std::string meaning) {
  return {std::move(path), IntegerValue{&member, range}, std::move(meaning)};
}

inline ConfigKey number(std::string path, double& member, NumberRange range, std::string meaning) {
  return {std::move(path), NumberValue{&member, range}, std::move(meaning)};
}

inline ConfigKey text(std::string path, std::string& member, TextKind kind, std::string meaning) {
  return {std::move(path), TextValue{&member, kind}, std::move(meaning)};
}

template <typename T>
ConfigKey words(std::string path, T& member,
                const std::vector<std::pair<std::string, std::type_identity_t<T>>>& choices,
                std::string meaning) {
  WordValue value;
  std::vector<T> values;
  for (const auto& [word, choice] : choices) {
    value.words.push_back(word);
    values.push_back(choice);
  }
  value.get = [&member, values]() -> std::size_t {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values[i] == member) return i;
    }
    TORCH_CHECK(false, "a choice of the configuration holds a value that has no word");
  };
  value.set = [&member, values](std::size_t i) { member = values.at(i); };
  return {std::move(path), std::move(value), std::move(meaning)};
}

inline ConfigKey text_list(std::string path, std::vector<std::string>& member, bool is_input_path,
                           std::string meaning) {
  return {std::move(path), TextListValue{&member, is_input_path}, std::move(meaning)};
}

inline ConfigKey number_list(std::string path, std::vector<double>& member, std::size_t length,
                             NumberRange range, std::string meaning) {
  return {std::move(path), NumberListValue{&member, length, range}, std::move(meaning)};
}

inline ConfigKey integer_list(std::string path, std::vector<std::int64_t>& member, IntegerRange range,
                              std::string meaning) {
  return {std::move(path), IntegerListValue{&member, range}, std::move(meaning)};
}

template <typename Number, typename Range>
ConfigKey named(std::string path, std::vector<std::pair<std::string, Number>>& member, Range range,
                std::string meaning) {
  return {std::move(path), NamedValues<Number, Range>{&member, range}, std::move(meaning)};
}

/// A value that training begins with and learns: without effect where a run goes on.
inline ConfigKey learned(ConfigKey key) {
  key.is_learned = true;
  return key;
}

template <typename Group>
ConfigSection group(std::string path, const Group&, std::string meaning) {
  return {std::move(path), std::move(meaning)};
}

/// The rows of `path`, with that before theirs.
inline ConfigRows section(const std::string& path, ConfigRows inner) {
  for (ConfigKey& key : inner.keys) key.path = path + "." + key.path;
  for (ConfigSection& deeper : inner.sections) deeper.path = path + "." + deeper.path;
  inner.sections.insert(inner.sections.begin(), {path, std::move(inner.meaning)});
  return inner;
}

/// One table of these, without the parameter's name that each path begins with.
inline ConfigRows rows(std::string meaning,
                       std::initializer_list<std::variant<ConfigKey, ConfigSection, ConfigRows>> parts) {
  const auto inside = [](auto part) {
    part.path.erase(0, part.path.find('.') + 1);
    return part;
  };
  ConfigRows all{std::move(meaning), {}, {}};
  for (const auto& part : parts) {
    if (const auto* key = std::get_if<ConfigKey>(&part)) {
      all.keys.push_back(inside(*key));
    } else if (const auto* group = std::get_if<ConfigSection>(&part)) {
      all.sections.push_back(inside(*group));
    } else {
      const auto& section = std::get<ConfigRows>(part);
      for (const ConfigKey& key : section.keys) all.keys.push_back(inside(key));
      for (const ConfigSection& deeper : section.sections) all.sections.push_back(inside(deeper));
    }
  }
  return all;
}

}  // namespace tessera::config_kinds
