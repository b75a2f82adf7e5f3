#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

namespace tessera {

/// JSON from outside. Beside the standard's, Python's json module writes NaN, Infinity and -Infinity, and so
/// do files of people who never meant to: these become numbers, which are not finite. So a field that nobody
/// reads does no harm, and who reads one checks std::isfinite and refuses with the field's name.
///
/// Beware that nlohmann's dump() writes such a number as null: json_text() for messages.
///
/// @tparam Json nlohmann::json, or nlohmann::ordered_json where the order of an object's fields matters
/// @param source  what to call the text in messages
/// @throws Error naming the source where the text isn't valid
template <typename Json = nlohmann::json>
Json parse_json(std::string_view text, const std::string& source);

/// The same from a file. @throws Error naming the file also where it can't be read
template <typename Json = nlohmann::json>
Json read_json_file(const std::filesystem::path& path);

/// A value as it stood in the file, for messages: numbers that are not finite as Python writes them.
template <typename Json>
std::string json_text(const Json& value);

/// Whether a value says nothing: null, or NaN, which stands for a missing value where tables become JSON.
template <typename Json>
bool is_missing(const Json& value);

extern template nlohmann::json parse_json(std::string_view, const std::string&);
extern template nlohmann::ordered_json parse_json(std::string_view, const std::string&);
extern template nlohmann::json read_json_file(const std::filesystem::path&);
extern template nlohmann::ordered_json read_json_file(const std::filesystem::path&);
extern template std::string json_text(const nlohmann::json&);
extern template std::string json_text(const nlohmann::ordered_json&);
extern template bool is_missing(const nlohmann::json&);
extern template bool is_missing(const nlohmann::ordered_json&);

}  // namespace tessera
