#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace tessera {

/// What Windows' editors put before UTF-8.
inline constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

/// Whether all of a text is well-formed UTF-8 (Unicode 15.0, table 3-7: no overlong forms, no surrogates).
bool is_utf8(std::string_view text);

/// Throws Error "WHERE: is no UTF-8: …" with the first byte that isn't, and how to convert a file.
void check_utf8(std::string_view text, const std::string& where);

/// ASCII letters alone: the others stay, and the length in bytes.
std::string lower_case(std::string text);

/// A name of a file for JSON and other UTF-8 text. Names are bytes on Linux: one that is UTF-8 stays as it
/// is, in another each byte that isn't part of it becomes %XX, and % becomes %25.
std::string as_utf8(std::string_view name);

/// A path for JSON, and back: as it is where it is UTF-8, else the same as as_utf8 behind "file://" (RFC
/// 8089).
std::string path_to_utf8(const std::filesystem::path& path);
std::filesystem::path path_from_utf8(const std::string& text);

}  // namespace tessera
