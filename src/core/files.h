#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace tessera {

/// The whole file. Throws Error naming the file.
std::string read_file(const std::filesystem::path& path);

/// Writes beside the file's place, fsyncs and renames, so that a reader sees the old content or the new one.
void write_file_atomically(const std::filesystem::path& path, std::string_view content);

/// Flushes a file's or a folder's content to disk (for a folder: its entries).
void sync_to_disk(const std::filesystem::path& path);

/// SHA-1 of a file's content, 40 hex digits. For telling files apart, not for security.
std::string file_hash(const std::filesystem::path& path);

}  // namespace tessera
