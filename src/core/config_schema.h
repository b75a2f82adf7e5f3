#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/config.h"

namespace tessera {

// The one table of configuration keys. Reader, writer, --help-config and docs/configuration.md all walk it; a
// key's default is what its member of Config is initialised with, and is written nowhere else.

/// Where in a Config a key's value lives.
template <typename T>
struct ConfigMember {
  T& (*access)(Config&);

  T& of(Config& config) const { return access(config); }
  /// `access` only forms a reference, so that it may look into a constant Config too.
  const T& of(const Config& config) const { return access(const_cast<Config&>(config)); }
};

struct IntegerRange {
  std::int64_t minimum = 0;
  std::int64_t maximum = std::numeric_limits<std::int64_t>::max();

  bool contains(std::int64_t value) const { return value >= minimum && value <= maximum; }
};

/// Finite numbers between two bounds; an open bound is itself left out.
struct NumberRange {
  double minimum = 0;
  double maximum = std::numeric_limits<double>::infinity();
  bool minimum_is_open = false;
  bool maximum_is_open = false;

  bool contains(double value) const;
};

enum class TextKind {
  kText,               ///< any; may be empty
  kName,               ///< of a folder: not empty, no '/', not '.' or '..'
  kFolder,             ///< an output folder: not empty; relative to the working folder
  kInputPath,          ///< resolved against the config file's folder; may be empty
  kInputPathOrRandom,  ///< the same, or the word `random`
};

struct BooleanValue {
  ConfigMember<bool> member;
};
struct IntegerValue {
  ConfigMember<std::int64_t> member;
  IntegerRange range;
};
struct NumberValue {
  ConfigMember<double> member;
  NumberRange range;
};
struct TextValue {
  ConfigMember<std::string> member;
  TextKind kind;
};
/// One of a few words; get and set take the word's place in `words`.
struct WordValue {
  std::vector<std::string> words;
  std::function<std::size_t(const Config&)> get;
  std::function<void(Config&, std::size_t)> set;
};
/// A list of strings that are not empty, input paths or not.
struct TextListValue {
  ConfigMember<std::vector<std::string>> member;
  bool is_input_path;
};
struct NumberListValue {
  ConfigMember<std::vector<double>> member;
  std::size_t length;
  NumberRange range;
};
struct IntegerListValue {
  ConfigMember<std::vector<std::int64_t>> member;
  IntegerRange range;
};
/// A list of names, or one text: an expression or all-linear.
struct ModulesValue {
  ConfigMember<ModuleSelection> member;
};
/// Names and a number for each, in the order of the file.
template <typename Number, typename Range>
struct NamedValues {
  ConfigMember<std::vector<std::pair<std::string, Number>>> member;
  Range range;
};
using NamedIntegersValue = NamedValues<std::int64_t, IntegerRange>;
using NamedNumbersValue = NamedValues<double, NumberRange>;

using ConfigValue =
    std::variant<BooleanValue, IntegerValue, NumberValue, TextValue, WordValue, TextListValue,
                 NumberListValue, IntegerListValue, ModulesValue, NamedIntegersValue, NamedNumbersValue>;

struct ConfigKey {
  std::string path;  ///< "losses.itc.queue.size"
  ConfigValue value;
  std::string meaning;      ///< one line, no full stop
  bool is_learned = false;  ///< what training begins with, and then learns
};

struct ConfigSection {
  std::string path;
  std::string meaning;
};

/// Every key, those of one section together, in the order in which files are written.
const std::vector<ConfigKey>& config_keys();
/// Those from `fusion` on, the second half of the table.
std::vector<ConfigKey> training_config_keys();
/// Every section, an outer one before those inside it.
const std::vector<ConfigSection>& config_sections();

/// nullptr where there is none of that path.
const ConfigKey* find_config_key(std::string_view path);
const ConfigSection* find_config_section(std::string_view path);

/// The names directly inside a section ("" is the whole file): its keys and sections.
std::vector<std::string> names_in_section(std::string_view section);

/// What a key accepts, to follow "expected": "an integer from 1 to 1024".
std::string accepted_values(const ConfigKey& key);

/// A key's value in `config` as YAML flow text, numbers in their shortest exact form.
std::string value_as_yaml(const ConfigKey& key, const Config& config);

}  // namespace tessera
