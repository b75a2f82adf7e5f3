#include "data/file_pattern.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <set>
#include <string_view>

#include "core/error.h"

namespace tessera::data {
namespace {

constexpr std::size_t kMaxExpansion = 1'000'000;

struct Number {
  std::int64_t value;
  std::size_t digits;
};

std::optional<Number> parse_number(std::string_view text) {
  std::int64_t value = 0;
  const bool digits_only =
      !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (!digits_only || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return Number{value, text.size()};
}

/// Whether a backslash stands at `at` that takes the next character's meaning away.
bool is_escape(std::string_view text, std::size_t at) {
  return text[at] == '\\' && at + 1 < text.size() &&
         std::string_view("{},\\").find(text[at + 1]) != text.npos;
}

/// Without the backslashes of escapes.
std::string plain(std::string_view text) {
  std::string result;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_escape(text, i)) ++i;
    result += text[i];
  }
  return result;
}

std::size_t find_brace(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (is_escape(text, i)) {
      ++i;
    } else if (text[i] == '{' || text[i] == '}') {
      return i;
    }
  }
  return std::string_view::npos;
}

class Expander {
 public:
  explicit Expander(const std::string& whole) : whole_(whole) {}

  std::vector<std::string> expand(std::string_view text) const {
    const std::size_t open = find_brace(text);
    if (open == std::string_view::npos) return {plain(text)};
    if (text[open] == '}') refuse("'}' without '{' before it");
    const std::size_t close = matching_brace(text, open);
    const std::vector<std::string> alternatives = group(text.substr(open + 1, close - open - 1));
    const std::vector<std::string> rest = expand(text.substr(close + 1));
    check_count(alternatives.size(), rest.size());
    std::vector<std::string> result;
    result.reserve(alternatives.size() * rest.size());
    for (const auto& alternative : alternatives) {
      for (const auto& tail : rest) result.push_back(plain(text.substr(0, open)) + alternative + tail);
    }
    return result;
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    fail("pattern '{}': {}; a brace that is part of a name has a backslash in front", whole_, what);
  }

  std::size_t matching_brace(std::string_view text, std::size_t open) const {
    int depth = 0;
    for (std::size_t i = open; i < text.size(); ++i) {
      if (is_escape(text, i)) {
        ++i;
      } else if (text[i] == '{') {
        ++depth;
      } else if (text[i] == '}' && --depth == 0) {
        return i;
      }
    }
    refuse("'{' is never closed");
  }

  std::vector<std::string> group(std::string_view inner) const {
    if (const auto numbers = range(inner)) return *numbers;
    std::vector<std::string> result;
    std::size_t begin = 0;
    int depth = 0;
    for (std::size_t i = 0; i <= inner.size(); ++i) {
      if (i < inner.size() && is_escape(inner, i)) {
        ++i;
        continue;
      }
      if (i < inner.size() && inner[i] == '{') ++depth;
      if (i < inner.size() && inner[i] == '}') --depth;
      if (i < inner.size() && (inner[i] != ',' || depth > 0)) continue;
      if (i == inner.size() && begin == 0) {
        refuse(fmt::format("'{{{}}}' is neither a range like {{000000..000005}} nor a list like {{a,b}}",
                           inner));
      }
      const std::vector<std::string> expanded = expand(inner.substr(begin, i - begin));
      check_count(result.size() + expanded.size(), 1);
      result.insert(result.end(), expanded.begin(), expanded.end());
      begin = i + 1;
    }
    return result;
  }

  std::optional<std::vector<std::string>> range(std::string_view inner) const {
    const std::size_t dots = inner.find("..");
    if (dots == std::string_view::npos) return std::nullopt;
    const auto first = parse_number(inner.substr(0, dots));
    const auto last = parse_number(inner.substr(dots + 2));
    if (!first || !last) return std::nullopt;
    if (last->value < first->value) {
      fail("pattern '{}': the range {{{}}} runs backwards", whole_, inner);
    }
    const auto count = static_cast<std::uint64_t>(last->value - first->value) + 1;
    check_count(count, 1);
    std::vector<std::string> result;
    result.reserve(count);
    for (std::int64_t value = first->value; value <= last->value; ++value) {
      result.push_back(fmt::format("{:0{}}", value, first->digits));
    }
    return result;
  }

  void check_count(std::uint64_t left, std::uint64_t right) const {
    if (left * right > kMaxExpansion || left > kMaxExpansion) {
      fail("pattern '{}': names more than {} files", whole_, kMaxExpansion);
    }
  }

  const std::string& whole_;
};

/// How much of a pattern is a name that is there: all of it, or all up to and with a '/'.
std::size_t size_of_name(const std::string& pattern) {
  std::error_code error;
  if (std::filesystem::exists(pattern, error)) return pattern.size();
  for (std::size_t slash = pattern.rfind('/'); slash != std::string::npos && slash > 0;
       slash = pattern.rfind('/', slash - 1)) {
    if (std::filesystem::is_directory(pattern.substr(0, slash), error)) return slash + 1;
  }
  return 0;
}

}  // namespace

std::vector<std::string> expand_braces(const std::string& pattern) {
  return Expander(pattern).expand(pattern);
}

std::vector<std::filesystem::path> expand_patterns(const std::vector<std::string>& patterns) {
  std::vector<std::filesystem::path> paths;
  std::set<std::filesystem::path> seen;
  for (const auto& pattern : patterns) {
    const std::size_t named = size_of_name(pattern);
    for (const auto& end : Expander(pattern).expand(std::string_view(pattern).substr(named))) {
      const std::string name = pattern.substr(0, named) + end;
      const std::filesystem::path path(name);
      std::error_code error;
      const auto status = std::filesystem::status(path, error);
      const std::string origin = name == pattern ? "" : fmt::format(" (from the pattern '{}')", pattern);
      if (!std::filesystem::exists(status)) fail("'{}'{}: no such file", name, origin);
      if (!std::filesystem::is_regular_file(status) && !std::filesystem::is_directory(status))
        fail("'{}'{}: expected a file, found a device or pipe", name, origin);
      if (!seen.insert(std::filesystem::canonical(path)).second) fail("'{}'{}: named twice", name, origin);
      paths.push_back(path);
    }
  }
  return paths;
}

}  // namespace tessera::data
