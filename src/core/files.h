#pragma once

#include <cstddef>
#include <cstdint>
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

/// A file that comes into being whole or not at all: what is written goes to a temporary file in the same
/// folder, which commit() flushes to disk and renames. Without commit() the destructor removes it, and the
/// old file stays. A symbolic link is followed. Everything throws Error naming the file.
class AtomicFile {
 public:
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, std::size_t size);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Where the next write goes, in bytes from the beginning; what is left out in between reads as zeros.
  void seek(std::uint64_t position);
  void commit();

 private:
  std::filesystem::path path_;
  std::filesystem::path temporary_;
  int descriptor_ = -1;
};

}  // namespace tessera
