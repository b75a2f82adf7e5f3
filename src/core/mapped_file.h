#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

#include "core/regular_file.h"

namespace tessera {

/// A file mapped into memory. The views it gives live as long as it does. Where another program shortens the
/// file meanwhile, or its disk fails, looking at a view ends this one (SIGBUS): with a line that names the
/// file, and exit code 1. What is read for as long as a run lasts is better read by RegularFile.
class MappedFile {
 public:
  enum class Access {
    kRead,         ///< whoever writes through a view ends the program
    kCopyOnWrite,  ///< a write to a view goes to memory of this process and never reaches the file
  };

  /// @throws Error naming the file where it can't be opened, is no regular file or is empty
  explicit MappedFile(const std::filesystem::path& path, Access access = Access::kRead);
  explicit MappedFile(const RegularFile& file, Access access = Access::kRead);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  Bytes bytes() const { return bytes_; }
  /// The same bytes for those who need a pointer to mutable ones; only with kCopyOnWrite may they be written.
  std::byte* data() const { return const_cast<std::byte*>(bytes_.data()); }

 private:
  std::filesystem::path path_;
  Bytes bytes_;
};

}  // namespace tessera
