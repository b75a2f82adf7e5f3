#include "core/json_file.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/file_kind.h"
#include "core/text_file.h"

namespace tessera {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr std::array<std::pair<std::string_view, double>, 3> kNotFinite = {
    {{"NaN", std::numeric_limits<double>::quiet_NaN()}, {"Infinity", kInfinity}, {"-Infinity", -kInfinity}}};

/// A text in which null stands for what the standard has no word for.
struct StandardText {
  std::string text;
  std::vector<double> nulls;  ///< one for each null in it: the number that it stands for, 0 for a null
  bool has_changed = false;
};

/// Outside of strings there are no letters but those of words, so that a word needs no look at what is around
/// it: "xNaN" becomes "xnull", which is as wrong.
StandardText in_standard_words(std::string_view text) {
  StandardText standard;
  bool in_string = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const std::string_view rest = text.substr(at);
    if (in_string) {
      const std::size_t taken = rest.front() == '\\' ? std::min<std::size_t>(2, rest.size()) : 1;
      standard.text += rest.substr(0, taken);
      in_string = rest.front() != '"';
      at += taken - 1;
      continue;
    }
    in_string = rest.front() == '"';
    if (rest.starts_with("null")) standard.nulls.push_back(0);
    const auto found = std::find_if(kNotFinite.begin(), kNotFinite.end(),
                                    [&](const auto& word) { return rest.starts_with(word.first); });
    if (found == kNotFinite.end()) {
      standard.text.push_back(text[at]);
      continue;
    }
    standard.text += "null";
    standard.nulls.push_back(found->second);
    standard.has_changed = true;
    at += found->first.size() - 1;
  }
  return standard;
}

/// What reads or writes a value calls itself once a level.
void check_depth(std::string_view text, const std::string& source) {
  constexpr int kDeepest = 256;
  int depth = 0;
  bool in_string = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '"') in_string = !in_string;
    if (in_string) {
      if (c == '\\') ++at;
    } else if (c == '[' || c == '{') {
      if (++depth > kDeepest) fail("{}: not usable JSON: nested more than {} deep", source, kDeepest);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

}  // namespace

template <typename Json>
Json parse_json(std::string_view text, const std::string& source) {
  check_depth(text, source);
  try {
    return Json::parse(text);
  } catch (const typename Json::exception& error) {
    const StandardText standard = in_standard_words(text);
    if (!standard.has_changed) fail("{}: not valid JSON: {}", source, error.what());
    std::size_t nulls = 0;
    const std::vector<double>& numbers = standard.nulls;
    const auto give_back = [&numbers, &nulls](int, typename Json::parse_event_t event, Json& value) {
      if (event != Json::parse_event_t::value || !value.is_null()) return true;
      const double number = numbers.at(nulls++);
      if (number != 0) value = number;
      return true;
    };
    try {
      return Json::parse(standard.text, give_back);
    } catch (const typename Json::exception& second) {
      fail("{}: not valid JSON: {}", source, second.what());
    }
  }
}

template <typename Json>
Json read_json_file(const std::filesystem::path& path) {
  const std::string text = read_text_file(path);
  try {
    return parse_json<Json>(text, path.string());
  } catch (const Error&) {
    refuse_other_kind(text, path.string(), "JSON file", {FileKind::kText});
    throw;
  }
}

template <typename Json>
std::string json_text(const Json& value) {
  if (value.is_number_float() && !std::isfinite(value.template get<double>())) {
    const double number = value.template get<double>();
    return std::isnan(number) ? "NaN" : number > 0 ? "Infinity" : "-Infinity";
  }
  const auto plain = [](const Json& part) {
    return part.dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  if (!value.is_structured()) return plain(value);
  std::string text;
  for (const auto& [key, part] : value.items()) {
    if (!text.empty()) text += ",";
    if (value.is_object()) text += plain(key) + ":";
    text += json_text(part);
  }
  return value.is_object() ? "{" + text + "}" : "[" + text + "]";
}

template <typename Json>
bool is_missing(const Json& value) {
  return value.is_null() || (value.is_number_float() && std::isnan(value.template get<double>()));
}

template nlohmann::json parse_json(std::string_view, const std::string&);
template nlohmann::ordered_json parse_json(std::string_view, const std::string&);
template nlohmann::json read_json_file(const std::filesystem::path&);
template nlohmann::ordered_json read_json_file(const std::filesystem::path&);
template std::string json_text(const nlohmann::json&);
template std::string json_text(const nlohmann::ordered_json&);
template bool is_missing(const nlohmann::json&);
template bool is_missing(const nlohmann::ordered_json&);

}  // namespace tessera
