#pragma once

#include <c10/util/Exception.h>

#include <string>
#include <utility>
#include <vector>

#include "core/config_schema.h"

/// One row of the table: a path that can't be bound to another member, since both are written once.
///   TESSERA_KEY(integer, data.batch_size, {1, 1 << 20}, "Pairs that each rank takes a step")
/// @param kind  one of the functions below
#define TESSERA_KEY(kind, path, ...) \
  kind(                              \
      #path, [](Config & c) -> auto& { return c.path; } __VA_OPT__(, ) __VA_ARGS__)

/// One function a kind of key, so that config_schema.cpp and config_schema_training.cpp read as a table. For
/// these two alone.
namespace tessera::config_rows {

inline constexpr std::int64_t kUnbounded = std::numeric_limits<std::int64_t>::max();
inline constexpr NumberRange kNonNegative{};
inline constexpr NumberRange kPositive{.minimum_is_open = true};
inline constexpr NumberRange kFraction{.minimum = 0, .maximum = 1};
/// Dropout and the like: at 1 nothing would be left.
inline constexpr NumberRange kBelowOne{.minimum = 0, .maximum = 1, .maximum_is_open = true};
inline constexpr NumberRange kPositiveFraction{.minimum = 0, .maximum = 1, .minimum_is_open = true};

inline ConfigKey boolean(std::string path, bool& (*member)(Config&), std::string meaning) {
  return {std::move(path), BooleanValue{{member}}, std::move(meaning)};
}

inline ConfigKey integer(std::string path, std::int64_t& (*member)(Config&), IntegerRange range,
                         std::string meaning) {
  return {std::move(path), IntegerValue{{member}, range}, std::move(meaning)};
}

inline ConfigKey number(std::string path, double& (*member)(Config&), NumberRange range,
                        std::string meaning) {
  return {std::move(path), NumberValue{{member}, range}, std::move(meaning)};
}

inline ConfigKey text(std::string path, std::string& (*member)(Config&), TextKind kind, std::string meaning) {
  return {std::move(path), TextValue{{member}, kind}, std::move(meaning)};
}

template <typename T>
ConfigKey words(std::string path, T& (*member)(Config&),
                const std::vector<std::pair<std::string, T>>& choices, std::string meaning) {
  WordValue value;
  std::vector<T> values;
  for (const auto& [word, choice] : choices) {
    value.words.push_back(word);
    values.push_back(choice);
  }
  const ConfigMember<T> place{member};
  value.get = [place, values](const Config& config) -> std::size_t {
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (values[i] == place.of(config)) return i;
    }
    TORCH_CHECK(false, "a choice of the configuration holds a value that has no word");
  };
  value.set = [place, values](Config& config, std::size_t i) { place.of(config) = values.at(i); };
  return {std::move(path), std::move(value), std::move(meaning)};
}

inline ConfigKey text_list(std::string path, std::vector<std::string>& (*member)(Config&), bool is_input_path,
                           std::string meaning) {
  return {std::move(path), TextListValue{{member}, is_input_path}, std::move(meaning)};
}

inline ConfigKey number_list(std::string path, std::vector<double>& (*member)(Config&), std::size_t length,
                             NumberRange range, std::string meaning) {
  return {std::move(path), NumberListValue{{member}, length, range}, std::move(meaning)};
}

inline ConfigKey integer_list(std::string path, std::vector<std::int64_t>& (*member)(Config&),
                              IntegerRange range, std::string meaning) {
  return {std::move(path), IntegerListValue{{member}, range}, std::move(meaning)};
}

inline ConfigKey modules(std::string path, ModuleSelection& (*member)(Config&), std::string meaning) {
  return {std::move(path), ModulesValue{{member}}, std::move(meaning)};
}

template <typename Number, typename Range>
ConfigKey named(std::string path, std::vector<std::pair<std::string, Number>>& (*member)(Config&),
                Range range, std::string meaning) {
  return {std::move(path), NamedValues<Number, Range>{{member}, range}, std::move(meaning)};
}

/// A value that training begins with and learns: without effect where a run goes on.
inline ConfigKey learned(ConfigKey key) {
  key.is_learned = true;
  return key;
}

}  // namespace tessera::config_rows
