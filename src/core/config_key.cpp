#include "core/config_key.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace tessera {
namespace {

/// Text that YAML reads back as the same string, plain where nothing in it could be taken for something else.
std::string yaml_string(const std::string& text) {
  static constexpr std::array<std::string_view, 8> kReserved = {"null", "Null", "NULL",  "true",
                                                                "True", "TRUE", "False", "FALSE"};
  const auto is_plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '/' || c == '.' || c == '-';
  };
  const bool starts_plain = !text.empty() && (std::isalpha(static_cast<unsigned char>(text[0])) != 0 ||
                                              text[0] == '/' || text.rfind("./", 0) == 0);
  if (starts_plain && std::all_of(text.begin(), text.end(), is_plain) && text != "false" &&
      std::find(kReserved.begin(), kReserved.end(), text) == kReserved.end()) {
    return text;
  }
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned>(static_cast<unsigned char>(c)));
    } else {
      out += c;
    }
  }
  return out + '"';
}

template <typename Range, typename ToText>
std::string flow_list(const Range& items, ToText to_text) {
  std::string out;
  for (const auto& item : items) {
    if (!out.empty()) out += ", ";
    out += to_text(item);
  }
  return "[" + out + "]";
}

/// The shortest text that reads back as the same double.
std::string number_text(double value) { return fmt::format("{}", value); }

std::string describe(const NumberRange& range) {
  const bool bounded = std::isfinite(range.maximum);
  if (!bounded) {
    return fmt::format("{} {}", range.minimum_is_open ? "above" : "of at least", range.minimum);
  }
  return fmt::format("{} {} {} {}", range.minimum_is_open ? "above" : "from", range.minimum,
                     range.maximum_is_open ? "to below" : (range.minimum_is_open ? "up to" : "to"),
                     range.maximum);
}

std::string describe(const IntegerRange& range) {
  if (range.maximum == std::numeric_limits<std::int64_t>::max())
    return fmt::format("of at least {}", range.minimum);
  return fmt::format("from {} to {}", range.minimum, range.maximum);
}

struct Accepted {
  std::string operator()(const BooleanValue&) const { return "true or false"; }
  std::string operator()(const IntegerValue& value) const { return "an integer " + describe(value.range); }
  std::string operator()(const NumberValue& value) const { return "a number " + describe(value.range); }
  std::string operator()(const TextValue& value) const {
    switch (value.kind) {
      case TextKind::kText:
        return "a text";
      case TextKind::kName:
        return "a name without '/'";
      case TextKind::kFolder:
        return "a folder";
      case TextKind::kInputPath:
        return "a path";
      case TextKind::kInputPathOrRandom:
        return "a path, or random";
    }
    return {};
  }
  std::string operator()(const WordValue& value) const {
    return fmt::format("one of {}", fmt::join(value.words, ", "));
  }
  std::string operator()(const TextListValue& value) const {
    return value.is_input_path ? "a list of paths" : "a list of strings";
  }
  std::string operator()(const NumberListValue& value) const {
    return fmt::format("a list of {} numbers {}", value.length, describe(value.range));
  }
  std::string operator()(const IntegerListValue& value) const {
    return "a list of integers " + describe(value.range);
  }
  std::string operator()(const NamesOrPatternValue&) const {
    return "a list of names, or a regular expression";
  }
  std::string operator()(const NamedIntegersValue& value) const {
    return "names, each with an integer " + describe(value.range);
  }
  std::string operator()(const NamedNumbersValue& value) const {
    return "names, each with a number " + describe(value.range);
  }
};

struct ToYaml {
  std::string operator()(const BooleanValue& value) const { return *value.member ? "true" : "false"; }
  std::string operator()(const IntegerValue& value) const { return std::to_string(*value.member); }
  std::string operator()(const NumberValue& value) const { return number_text(*value.member); }
  std::string operator()(const TextValue& value) const { return yaml_string(*value.member); }
  std::string operator()(const WordValue& value) const { return value.words.at(value.get()); }
  std::string operator()(const TextListValue& value) const { return flow_list(*value.member, yaml_string); }
  std::string operator()(const NumberListValue& value) const { return flow_list(*value.member, number_text); }
  std::string operator()(const IntegerListValue& value) const {
    return flow_list(*value.member, [](std::int64_t item) { return std::to_string(item); });
  }
  std::string operator()(const NamesOrPatternValue& value) const {
    return value.pattern->empty() ? flow_list(*value.names, yaml_string) : yaml_string(*value.pattern);
  }
  template <typename Number, typename Range>
  std::string operator()(const NamedValues<Number, Range>& value) const {
    std::string out;
    for (const auto& [name, number] : *value.member)
      out += fmt::format("{}{}: {}", out.empty() ? "" : ", ", yaml_string(name), number);
    return "{" + out + "}";
  }
};

}  // namespace

bool NumberRange::contains(double value) const {
  if (!std::isfinite(value)) return false;
  return (minimum_is_open ? value > minimum : value >= minimum) &&
         (maximum_is_open ? value < maximum : value <= maximum);
}

std::string accepted_values(const ConfigKey& key) { return std::visit(Accepted{}, key.value); }

std::string value_as_yaml(const ConfigKey& key) { return std::visit(ToYaml{}, key.value); }

}  // namespace tessera
