#pragma once

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <limits>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace tessera {

// What a section of the configuration is made of. A folder that has options declares them in a plain struct
// (fusion/fusion_config.h) and describes them in a table beside it (fusion/fusion_config_rows.cpp,
// core/config_rows.h), which is bound to one such struct. Whoever composes sections to a configuration
// (config/config.h) reads and writes its members through these rows; a key's default is what its member is
// initialised with, and is written nowhere else.

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
  bool* member;
};
struct IntegerValue {
  std::int64_t* member;
  IntegerRange range;
};
struct NumberValue {
  double* member;
  NumberRange range;
};
struct TextValue {
  std::string* member;
  TextKind kind;
};
/// One of a few words; get and set take the word's place in `words`.
struct WordValue {
  std::vector<std::string> words;
  std::function<std::size_t()> get;
  std::function<void(std::size_t)> set;
};
/// A list of strings that are not empty, input paths or not.
struct TextListValue {
  std::vector<std::string>* member;
  bool is_input_path;
};
struct NumberListValue {
  std::vector<double>* member;
  std::size_t length;
  NumberRange range;
};
struct IntegerListValue {
  std::vector<std::int64_t>* member;
  IntegerRange range;
};
/// A list of names, or one text: a regular expression, or a word that stands for a list of itself. Of the two
/// members the one that isn't meant is empty.
struct NamesOrPatternValue {
  std::vector<std::string>* names;
  std::string* pattern;
  std::string word;
};
/// Names and a number for each, in the order of the file.
template <typename Number, typename Range>
struct NamedValues {
  std::vector<std::pair<std::string, Number>>* member;
  Range range;
};
using NamedIntegersValue = NamedValues<std::int64_t, IntegerRange>;
using NamedNumbersValue = NamedValues<double, NumberRange>;

using ConfigValue = std::variant<BooleanValue, IntegerValue, NumberValue, TextValue, WordValue, TextListValue,
                                 NumberListValue, IntegerListValue, NamesOrPatternValue, NamedIntegersValue,
                                 NamedNumbersValue>;

struct ConfigKey {
  std::string path;         ///< inside the section that has it, or in a whole configuration: "itc.queue.size"
  ConfigValue value;        ///< bound to a member, which has to outlive it
  std::string meaning;      ///< one line, no full stop
  bool is_learned = false;  ///< what training begins with, and then learns
};

struct ConfigSection {
  std::string path;
  std::string meaning;
};

/// The table of one section or of a whole configuration.
struct ConfigRows {
  std::string meaning;                  ///< of the section
  std::vector<ConfigKey> keys;          ///< those of one section together, in the order of files
  std::vector<ConfigSection> sections;  ///< those inside it, an outer one before those inside that
};

/// What a key accepts, to follow "expected": "an integer from 1 to 1024".
std::string accepted_values(const ConfigKey& key);

/// A key's value as YAML flow text, numbers in their shortest exact form.
std::string value_as_yaml(const ConfigKey& key);

}  // namespace tessera
