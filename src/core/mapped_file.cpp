#include "core/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/error.h"

namespace tessera {

MappedFile::MappedFile(const std::filesystem::path& path, Access access) : path_(path) {
  // Opening a pipe would wait for its writer.
  const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file < 0) fail("{}: can't be opened: {}", path.string(), system_message(errno));
  struct stat status {};
  if (::fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(file);
    fail("{}: is {}no regular file", path.string(), S_ISDIR(status.st_mode) ? "a folder, " : "");
  }
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size == 0) {
    ::close(file);
    fail("{}: the file is empty (0 bytes)", path.string());
  }
  const bool copies = access == Access::kCopyOnWrite;
  void* address = ::mmap(nullptr, size, copies ? PROT_READ | PROT_WRITE : PROT_READ,
                         copies ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED, file, 0);
  const int error = errno;
  ::close(file);
  if (address == MAP_FAILED) fail("{}: can't be mapped: {}", path.string(), system_message(error));
  bytes_ = Bytes(static_cast<const std::byte*>(address), size);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)), bytes_(std::exchange(other.bytes_, {})) {}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace tessera
