#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace tessera {

using Bytes = std::span<const std::byte>;

/// A file mapped into memory. The views it gives live as long as it does; a file that another program
/// shortens while it is mapped ends this one with SIGBUS, as with every mapping.
class MappedFile {
 public:
  enum class Access {
    kRead,         ///< whoever writes through a view ends the program
    kCopyOnWrite,  ///< a write to a view goes to memory of this process and never reaches the file
  };

  /// @throws Error naming the file where it can't be opened, is no regular file or is empty
  explicit MappedFile(const std::filesystem::path& path, Access access = Access::kRead);
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
