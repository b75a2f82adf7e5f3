#include "data/captions.h"

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace tessera::data {
namespace {

constexpr std::string_view kWhiteSpace = " \t\r\n\f\v";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kWhiteSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kWhiteSpace) - first + 1);
}

void add_caption(std::vector<std::string>& captions, std::string_view text) {
  const std::string_view caption = trimmed(text);
  if (!caption.empty()) captions.emplace_back(caption);
}

std::string image_id_of(const nlohmann::json& id, const std::string& name) {
  if (id.is_string()) return id.get<std::string>();
  if (id.is_number_integer()) return id.dump();
  fail("{}: 'image_id': expected a string or an integer, found {}", name, id.type_name());
}

void check_utf8(std::string_view text, const std::string& name) {
  try {
    // The JSON writer refuses what is no UTF-8.
    nlohmann::json(std::string(text)).dump();
  } catch (const nlohmann::json::exception& error) {
    fail("{}: expected UTF-8: {}", name, error.what());
  }
}

}  // namespace

nlohmann::json json_object(std::string_view text, const std::string& name) {
  nlohmann::json root;
  try {
    root = nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: no JSON: {}", name, error.what());
  }
  if (!root.is_object()) fail("{}: expected a JSON object, found {}", name, root.type_name());
  return root;
}

CaptionRecord captions_from_json(std::string_view text, const std::string& name) {
  const nlohmann::json root = json_object(text, name);
  CaptionRecord record;
  if (const auto list = root.find("captions"); list != root.end()) {
    if (!list->is_array())
      fail("{}: 'captions': expected a list of strings, found {}", name, list->type_name());
    for (const auto& caption : *list) {
      if (!caption.is_string()) fail("{}: 'captions': expected strings, found {}", name, caption.type_name());
      add_caption(record.captions, caption.get_ref<const std::string&>());
    }
  }
  if (const auto caption = root.find("caption"); caption != root.end() && record.captions.empty()) {
    if (!caption->is_string()) fail("{}: 'caption': expected a string, found {}", name, caption->type_name());
    add_caption(record.captions, caption->get_ref<const std::string&>());
  }
  if (const auto id = root.find("image_id"); id != root.end()) record.image_id = image_id_of(*id, name);
  return record;
}

std::vector<std::string> captions_from_text(std::string_view text, const std::string& name) {
  constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";
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
