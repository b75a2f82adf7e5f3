#include "data/shard_pattern.h"

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

class Expander {
 public:
  explicit Expander(const std::string& whole) : whole_(whole) {}

  std::vector<std::string> expand(std::string_view text) const {
    const std::size_t open = text.find_first_of("{}");
    if (open == std::string_view::npos) return {std::string(text)};
    if (text[open] == '}') fail("shard pattern '{}': '}}' without '{{' before it", whole_);
    const std::size_t close = matching_brace(text, open);
    const std::vector<std::string> alternatives = group(text.substr(open + 1, close - open - 1));
    const std::vector<std::string> rest = expand(text.substr(close + 1));
    check_count(alternatives.size(), rest.size());
    std::vector<std::string> result;
    result.reserve(alternatives.size() * rest.size());
    for (const auto& alternative : alternatives) {
      for (const auto& tail : rest) result.push_back(std::string(text.substr(0, open)) + alternative + tail);
    }
    return result;
  }

 private:
  std::size_t matching_brace(std::string_view text, std::size_t open) const {
    int depth = 0;
    for (std::size_t i = open; i < text.size(); ++i) {
      if (text[i] == '{') ++depth;
      if (text[i] == '}' && --depth == 0) return i;
    }
    fail("shard pattern '{}': '{{' is never closed", whole_);
  }

  std::vector<std::string> group(std::string_view inner) const {
    if (const auto numbers = range(inner)) return *numbers;
    std::vector<std::string> result;
    std::size_t begin = 0;
    int depth = 0;
    for (std::size_t i = 0; i <= inner.size(); ++i) {
      if (i < inner.size() && inner[i] == '{') ++depth;
      if (i < inner.size() && inner[i] == '}') --depth;
      if (i < inner.size() && (inner[i] != ',' || depth > 0)) continue;
      if (i == inner.size() && begin == 0) {
        fail(
            "shard pattern '{}': '{{{}}}' is neither a range like {{000000..000005}} nor a list like {{a,b}}",
            whole_, inner);
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
      fail("shard pattern '{}': the range {{{}}} runs backwards", whole_, inner);
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
      fail("shard pattern '{}': names more than {} files", whole_, kMaxExpansion);
    }
  }

  const std::string& whole_;
};

}  // namespace

std::vector<std::string> expand_braces(const std::string& pattern) {
  return Expander(pattern).expand(pattern);
}

std::vector<std::filesystem::path> expand_shards(const std::vector<std::string>& patterns) {
  std::vector<std::filesystem::path> shards;
  std::set<std::filesystem::path> seen;
  for (const auto& pattern : patterns) {
    for (const auto& name : expand_braces(pattern)) {
      const std::filesystem::path path(name);
      std::error_code error;
      const auto status = std::filesystem::status(path, error);
      const std::string origin = name == pattern ? "" : fmt::format(" (from the pattern '{}')", pattern);
      if (!std::filesystem::exists(status)) fail("shard '{}'{}: no such file", name, origin);
      if (!std::filesystem::is_regular_file(status))
        fail("shard '{}'{}: expected a tar file, found none", name, origin);
      if (!seen.insert(std::filesystem::canonical(path)).second)
        fail("shard '{}'{}: named twice", name, origin);
      shards.push_back(path);
    }
  }
  return shards;
}

}  // namespace tessera::data
