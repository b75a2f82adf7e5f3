#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace tessera::data {

using Bytes = std::span<const std::byte>;

/// A file mapped for reading. The views it gives live as long as it does; a file that another program
/// shortens while it is mapped ends this one with SIGBUS, as with every mapping.
class MappedFile {
 public:
  /// @throws Error naming the file where it can't be opened or is empty
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  MappedFile& operator=(MappedFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  Bytes bytes() const { return bytes_; }

 private:
  std::filesystem::path path_;
  Bytes bytes_;
};

}  // namespace tessera::data
