#include "data/captions.h"

#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/json_file.h"
#include "core/utf8.h"

namespace tessera::data {
namespace {

constexpr std::string_view kWhiteSpace = " \t\r\n\f\v";

void add_caption(std::vector<std::string>& captions, std::string_view text) {
  const std::string_view caption = trimmed(text);
  if (!caption.empty()) captions.emplace_back(caption);
}

std::string image_id_of(const nlohmann::json& id, const std::string& name) {
  // From here on a float no longer tells neighbouring integers apart.
  constexpr double kExact = 9007199254740992.0;
  if (is_missing(id)) return {};
  if (id.is_string()) return id.get<std::string>();
  if (id.is_number_integer()) return id.dump();
  if (!id.is_number_float())
    fail("{}: 'image_id': expected a string or an integer, found {}", name, id.type_name());
  const auto value = id.get<double>();
  if (value != std::trunc(value))
    fail("{}: 'image_id': expected a string or an integer, found {}", name, value);
  if (std::abs(value) >= kExact) {
    fail("{}: 'image_id' is the float {}, too large to be exact: other ids may be the same; write a string",
         name, json_text(id));
  }
  return std::to_string(static_cast<std::int64_t>(value));
}

/// The captions of a field, or what is the matter with it.
void add_captions_of(const nlohmann::json& field, const char* field_name, const std::string& name,
                     CaptionRecord& record) {
  const bool list = std::string_view(field_name) == "captions";
  if (is_missing(field)) return;
  if (list != field.is_array()) {
    record.unusable = fmt::format("{}: '{}': expected a {}, found {}", name, field_name,
                                  list ? "list of strings" : "string", field.type_name());
    return;
  }
  std::vector<std::string> captions;
  for (const nlohmann::json& caption : list ? field : nlohmann::json::array({field})) {
    if (is_missing(caption)) continue;
    if (!caption.is_string()) {
      record.unusable = fmt::format("{}: '{}': expected {}, found {}", name, field_name,
                                    list ? "strings" : "a string", caption.type_name());
      return;
    }
    add_caption(captions, caption.get_ref<const std::string&>());
  }
  record.captions = std::move(captions);
}

}  // namespace

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kWhiteSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kWhiteSpace) - first + 1);
}

nlohmann::json json_object(std::string_view text, const std::string& name) {
  nlohmann::json root = parse_json(text, name);
  if (!root.is_object()) fail("{}: expected a JSON object, found {}", name, root.type_name());
  return root;
}

CaptionRecord captions_from_json(std::string_view text, const std::string& name) {
  const nlohmann::json root = json_object(text, name);
  CaptionRecord record;
  for (const char* field : {"captions", "caption"}) {
    const auto found = root.find(field);
    if (found != root.end() && record.captions.empty()) add_captions_of(*found, field, name, record);
  }
  if (const auto id = root.find("image_id"); id != root.end()) record.image_id = image_id_of(*id, name);
  return record;
}

std::vector<std::string> captions_from_text(std::string_view text, const std::string& name) {
  check_utf8(text, name);
  if (text.substr(0, kByteOrderMark.size()) == kByteOrderMark) text.remove_prefix(kByteOrderMark.size());
  std::vector<std::string> captions;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    add_caption(captions, text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return captions;
}

}  // namespace tessera::data
