#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

namespace tessera {

using Bytes = std::span<const std::byte>;

/// An open file that is read by place. It stays readable where another program renames, removes or replaces
/// it, and where one shortens it, reading is an Error rather than the SIGBUS that a mapping gives: this is
/// for files that are read for as long as a run lasts.
class RegularFile {
 public:
  /// Where too many files are open, the process's own limit is raised as far as it may be.
  /// @throws Error naming the file where it can't be opened, is no regular file or is empty
  explicit RegularFile(std::filesystem::path path);
  ~RegularFile();
  RegularFile(RegularFile&& other) noexcept;
  RegularFile(const RegularFile&) = delete;
  RegularFile& operator=(const RegularFile&) = delete;
  RegularFile& operator=(RegularFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  /// In bytes, when it was opened.
  std::size_t size() const { return size_; }
  int descriptor() const { return descriptor_; }

  /// Thread-safe. @throws Error naming the file where it can't be read or has become shorter than that
  std::vector<std::byte> read(std::uint64_t offset, std::size_t size) const;
  std::vector<std::byte> read() const { return read(0, size_); }

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  std::size_t size_ = 0;
};

}  // namespace tessera
