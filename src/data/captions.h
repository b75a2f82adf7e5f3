#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data {

struct CaptionRecord {
  std::vector<std::string> captions;  ///< without surrounding white space, none empty; may be none at all
  std::string image_id;               ///< empty where none is given
};

/// @param name  stands for the text in messages
/// @throws Error where the text is no JSON object
nlohmann::json json_object(std::string_view text, const std::string& name);

/// From a JSON object: `captions` (a list of strings) or `caption` (a string), `image_id` (string or
/// integer).
/// @param name  stands for the text in messages
/// @throws Error where the text is no such object
CaptionRecord captions_from_json(std::string_view text, const std::string& name);

/// One caption a line; a byte order mark and carriage returns are dropped.
/// @throws Error where the text is no UTF-8
std::vector<std::string> captions_from_text(std::string_view text, const std::string& name);

}  // namespace tessera::data
