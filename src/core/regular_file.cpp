#include "core/regular_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "core/error.h"

namespace tessera {

namespace {

/// The limit that a shell sets, often 1,024, is meant to be raised by programs that need more; a set of
/// shards is easily larger.
bool raise_limit_of_open_files() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= limit.rlim_max) return false;
  limit.rlim_cur = limit.rlim_max;
  return ::setrlimit(RLIMIT_NOFILE, &limit) == 0;
}

int open_to_read(const std::filesystem::path& path) {
  // Before the shards have taken what a log or a checkpoint needs later.
  [[maybe_unused]] static const bool is_raised = raise_limit_of_open_files();
  const auto attempt = [&] {
    // Opening a pipe would wait for its writer.
    return ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  };
  int file = attempt();
  if (file < 0 && errno == EMFILE && raise_limit_of_open_files()) file = attempt();
  if (file >= 0) return file;
  if (errno == EMFILE) {
    fail("{}: can't be opened: too many open files; raise their limit (ulimit -n)", path.string());
  }
  fail("{}: can't be opened: {}", path.string(), system_message(errno));
}

}  // namespace

RegularFile::RegularFile(std::filesystem::path path) : path_(std::move(path)) {
  const int file = open_to_read(path_);
  struct stat status {};
  if (::fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) {
    ::close(file);
    fail("{}: is {}no regular file", path_.string(), S_ISDIR(status.st_mode) ? "a folder, " : "");
  }
  size_ = static_cast<std::size_t>(status.st_size);
  if (size_ == 0) {
    ::close(file);
    fail("{}: the file is empty (0 bytes)", path_.string());
  }
  descriptor_ = file;
}

RegularFile::~RegularFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

RegularFile::RegularFile(RegularFile&& other) noexcept
    : path_(std::move(other.path_)),
      descriptor_(std::exchange(other.descriptor_, -1)),
      size_(std::exchange(other.size_, 0)) {}

std::vector<std::byte> RegularFile::read(std::uint64_t offset, std::size_t size) const {
  std::vector<std::byte> bytes(size);
  std::size_t done = 0;
  while (done < size) {
    const ssize_t count =
        ::pread(descriptor_, bytes.data() + done, size - done, static_cast<off_t>(offset + done));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) fail("{}: can't be read: {}", path_.string(), system_message(errno));
    if (count == 0) {
      fail(
          "{}: has become shorter than it was: it had {} bytes when it was opened, and ends now before byte "
          "{}; was it written anew meanwhile?",
          path_.string(), size_, offset + done + 1);
    }
    done += static_cast<std::size_t>(count);
  }
  return bytes;
}

}  // namespace tessera
