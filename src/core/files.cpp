#include "core/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <vector>

#include "core/error.h"
#include "core/sha1.h"

namespace tessera {

namespace {

constexpr std::size_t kBufferSize = std::size_t{1} << 20;

/// An open file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags) : value_(::open(path.c_str(), flags | O_CLOEXEC)) {
    if (value_ < 0) {
      fail("{}: can't be opened: {}", path.string(), system_message(errno));
    }
  }
  ~Descriptor() { ::close(value_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

/// Reads up to `size` bytes; fewer only at the end of the file.
std::size_t read_some(const Descriptor& file, char* buffer, std::size_t size,
                      const std::filesystem::path& path) {
  std::size_t done = 0;
  while (done < size) {
    const ssize_t count = ::read(file.get(), buffer + done, size - done);
    if (count < 0) {
      if (errno == EINTR) {
        continue;
      }
      fail("{}: can't be read: {}", path.string(), system_message(errno));
    }
    if (count == 0) {
      break;
    }
    done += static_cast<std::size_t>(count);
  }
  return done;
}

std::filesystem::path folder_of(const std::filesystem::path& path) {
  const auto folder = path.parent_path();
  return folder.empty() ? std::filesystem::path(".") : folder;
}

/// Where a path leads that is about to be replaced. A device or a pipe must not become a file.
std::filesystem::path place_to_write(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::file_status status = std::filesystem::status(path, error);
  if (!std::filesystem::exists(status)) return path;
  if (!std::filesystem::is_regular_file(status))
    fail("{}: can't be written: it is no regular file", path.string());
  return std::filesystem::is_symlink(path) ? std::filesystem::canonical(path) : path;
}

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  const Descriptor file(path, O_RDONLY);
  std::string content;
  std::size_t count = kBufferSize;
  while (count == kBufferSize) {
    const std::size_t start = content.size();
    content.resize(start + kBufferSize);
    count = read_some(file, content.data() + start, kBufferSize, path);
    content.resize(start + count);
  }
  return content;
}

void write_file_atomically(const std::filesystem::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.commit();
}

void sync_to_disk(const std::filesystem::path& path) {
  const Descriptor file(path, O_RDONLY);
  // EINVAL: a file system that has nothing to flush here.
  if (::fsync(file.get()) != 0 && errno != EINVAL) {
    fail("{}: can't be flushed to disk: {}", path.string(), system_message(errno));
  }
}

std::string file_hash(const std::filesystem::path& path) {
  const Descriptor file(path, O_RDONLY);
  Sha1 hash;
  std::vector<char> buffer(kBufferSize);
  std::size_t count = buffer.size();
  while (count == buffer.size()) {
    count = read_some(file, buffer.data(), buffer.size(), path);
    hash.update(buffer.data(), count);
  }
  return hash.hex_digest();
}

AtomicFile::AtomicFile(const std::filesystem::path& path) : path_(place_to_write(path)) {
  // Unique among the threads and processes that may write the same file.
  static std::atomic<std::uint64_t> serial{0};
  temporary_ = folder_of(path_) /
               fmt::format(".{}.tmp-{}-{}", path_.filename().string(), ::getpid(), serial.fetch_add(1));
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    fail("{}: can't be written: {}", path_.string(), system_message(errno));
  }
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) {
    ::close(descriptor_);
  }
  if (!temporary_.empty()) {
    ::unlink(temporary_.c_str());
  }
}

void AtomicFile::write(const void* data, std::size_t size) {
  const char* bytes = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t count = ::write(descriptor_, bytes, size);
    if (count < 0) {
      if (errno == EINTR) {
        continue;
      }
      fail("{}: can't be written: {}", path_.string(), system_message(errno));
    }
    bytes += count;
    size -= static_cast<std::size_t>(count);
  }
}

void AtomicFile::seek(std::uint64_t position) {
  if (::lseek(descriptor_, static_cast<off_t>(position), SEEK_SET) < 0) {
    fail("{}: can't be written: {}", path_.string(), system_message(errno));
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0 && errno != EINVAL) {
    fail("{}: can't be flushed to disk: {}", path_.string(), system_message(errno));
  }
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0) {
    fail("{}: can't be written: {}", path_.string(), system_message(errno));
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail("{}: can't be replaced: {}", path_.string(), system_message(errno));
  }
  temporary_.clear();
  sync_to_disk(folder_of(path_));
}

}  // namespace tessera
