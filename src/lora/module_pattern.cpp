#include "lora/module_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>

#include "core/error.h"

namespace tessera::lora {

namespace {

/// Steps after which matching a path of a few dozen letters is hopeless.
constexpr std::uint32_t kMostSteps = 1'000'000;

const pcre2_code* code_of(const std::shared_ptr<void>& code) {
  return static_cast<const pcre2_code*>(code.get());
}
pcre2_match_data* data_of(const std::shared_ptr<void>& data) {
  return static_cast<pcre2_match_data*>(data.get());
}

PCRE2_SPTR units(const std::string& text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string message_of(int error) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(error, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

}  // namespace

ModulePattern::ModulePattern(std::string expression, std::string field)
    : expression_(std::move(expression)), field_(std::move(field)) {
  int error = 0;
  PCRE2_SIZE place = 0;
  pcre2_code* code =
      pcre2_compile(units(expression_), expression_.size(), PCRE2_DOTALL, &error, &place, nullptr);
  if (code == nullptr)
    fail("{}: \"{}\" is no regular expression: {} at character {}", field_, expression_, message_of(error),
         place);
  code_ = std::shared_ptr<void>(code, [](void* it) { pcre2_code_free(static_cast<pcre2_code*>(it)); });
  data_ = std::shared_ptr<void>(pcre2_match_data_create_from_pattern(code, nullptr),
                                [](void* it) { pcre2_match_data_free(static_cast<pcre2_match_data*>(it)); });
}

bool ModulePattern::run(const std::string& path) const {
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), &pcre2_match_context_free);
  pcre2_set_match_limit(context.get(), kMostSteps);
  const int found = pcre2_match(code_of(code_), units(path), path.size(), 0,
                                PCRE2_ANCHORED | PCRE2_ENDANCHORED, data_of(data_), context.get());
  if (found < 0 && found != PCRE2_ERROR_NOMATCH)
    fail("{}: matching \"{}\" against {} failed: {}", field_, expression_, path, message_of(found));
  return found >= 0;
}

bool ModulePattern::matches(const std::string& path) const { return run(path); }

std::optional<std::string> ModulePattern::group(const std::string& path, const char* name) const {
  if (!run(path)) return std::nullopt;
  const int number = pcre2_substring_number_from_name(code_of(code_), reinterpret_cast<PCRE2_SPTR>(name));
  const PCRE2_SIZE* places = pcre2_get_ovector_pointer(data_of(data_));
  if (number < 0 || places[2 * number] == PCRE2_UNSET) return std::nullopt;
  return path.substr(places[2 * number], places[2 * number + 1] - places[2 * number]);
}

bool pattern_names(const std::string& key, const char* field,
                   const std::vector<std::string>& names_of_module) {
  const ModulePattern pattern("(.*\\.)?(" + key + ")", field);
  return std::any_of(names_of_module.begin(), names_of_module.end(),
                     [&](const std::string& name) { return pattern.matches(name); });
}

}  // namespace tessera::lora
