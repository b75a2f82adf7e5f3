#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace tessera::data {

struct CaptionRecord {
  std::vector<std::string> captions;  ///< without surrounding white space, none empty; may be none at all
  std::string image_id;               ///< empty where none is given
  std::string unusable;               ///< what is the matter with a caption that is no text; empty: nothing
};

/// A text without white space around it.
std::string_view trimmed(std::string_view text);

/// @param name  stands for the text in messages
/// @throws Error where the text is no JSON object
nlohmann::json json_object(std::string_view text, const std::string& name);

/// From a JSON object: `captions` (a list of strings) or `caption` (a string), `image_id` (string or
/// integer, also one that a table of numbers made a float: 12.0). What is null or NaN, as tables write what
/// they have not, counts as not there, in a list too; `caption` is looked at where `captions` has none.
/// @param name  stands for the text in messages
/// @throws Error where the text is no such object; a caption of another type is said in `unusable`, since a
///         .txt beside it may serve
CaptionRecord captions_from_json(std::string_view text, const std::string& name);

/// One caption a line; a byte order mark and carriage returns are dropped.
/// @throws Error where the text is no UTF-8
std::vector<std::string> captions_from_text(std::string_view text, const std::string& name);

}  // namespace tessera::data
