#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

/// A text file's content, without a UTF-8 byte order mark. Bytes that are no UTF-8 are taken as they are:
/// names of files may be such (core/utf8.h has what tells).
/// @throws Error naming the file where it can't be read, is UTF-16 or UTF-32, holds a zero byte, or is a
///         pointer of Git LFS in place of the file
std::string read_text_file(const std::filesystem::path& path);

/// The lines of a text, without their ends ("\n" or "\r\n"); the last one may lack its end. Empty ones
/// count, so that line i has the number i + 1.
std::vector<std::string> lines_of(std::string_view text);

/// The lines of a file that is read as read_text_file does.
/// @throws Error also where the file is a web page
std::vector<std::string> read_lines(const std::filesystem::path& path);

}  // namespace tessera
