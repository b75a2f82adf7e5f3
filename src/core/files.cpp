#include "core/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <system_error>
#include <vector>

#include "core/error.h"

namespace tessera {

namespace {

constexpr std::size_t kBufferSize = std::size_t{1} << 20;

std::string reason(int error) { return std::generic_category().message(error); }

/// An open file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor(const std::filesystem::path& path, int flags) : value_(::open(path.c_str(), flags | O_CLOEXEC)) {
    if (value_ < 0) {
      fail("{}: can't be opened: {}", path.string(), reason(errno));
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
      fail("{}: can't be read: {}", path.string(), reason(errno));
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

/// SHA-1 (FIPS 180-4) over a stream of bytes.
class Sha1 {
 public:
  void update(const char* data, std::size_t size) {
    length_ += size;
    while (size > 0) {
      const std::size_t count = std::min(size, block_.size() - filled_);
      std::memcpy(block_.data() + filled_, data, count);
      filled_ += count;
      data += count;
      size -= count;
      if (filled_ == block_.size()) {
        process_block();
      }
    }
  }

  std::string hex_digest() {
    const std::uint64_t bits = length_ * 8;
    const char marker = '\x80';
    update(&marker, 1);
    const char zero = 0;
    while (filled_ != block_.size() - 8) {
      update(&zero, 1);
    }
    std::array<char, 8> tail{};
    for (std::size_t i = 0; i < tail.size(); ++i) {
      tail[i] = static_cast<char>(bits >> (56 - 8 * i));
    }
    update(tail.data(), tail.size());
    return fmt::format("{:08x}{:08x}{:08x}{:08x}{:08x}", state_[0], state_[1], state_[2], state_[3],
                       state_[4]);
  }

 private:
  void process_block() {
    std::array<std::uint32_t, 80> words{};
    for (std::size_t i = 0; i < 16; ++i) {
      words[i] = (std::uint32_t{block_[4 * i]} << 24) | (std::uint32_t{block_[4 * i + 1]} << 16) |
                 (std::uint32_t{block_[4 * i + 2]} << 8) | std::uint32_t{block_[4 * i + 3]};
    }
    for (std::size_t i = 16; i < words.size(); ++i) {
      words[i] = std::rotl(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16], 1);
    }
    auto [a, b, c, d, e] = state_;
    for (std::size_t i = 0; i < words.size(); ++i) {
      const auto [function, constant] = round_of(i, b, c, d);
      const std::uint32_t next = std::rotl(a, 5) + function + e + constant + words[i];
      e = d;
      d = c;
      c = std::rotl(b, 30);
      b = a;
      a = next;
    }
    const std::array<std::uint32_t, 5> sum{a, b, c, d, e};
    for (std::size_t i = 0; i < state_.size(); ++i) {
      state_[i] += sum[i];
    }
    filled_ = 0;
  }

  struct Round {
    std::uint32_t function;
    std::uint32_t constant;
  };
  static Round round_of(std::size_t i, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    if (i < 20) {
      return {(b & c) | (~b & d), 0x5A827999u};
    }
    if (i < 40) {
      return {b ^ c ^ d, 0x6ED9EBA1u};
    }
    if (i < 60) {
      return {(b & c) | (b & d) | (c & d), 0x8F1BBCDCu};
    }
    return {b ^ c ^ d, 0xCA62C1D6u};
  }

  std::array<std::uint32_t, 5> state_{0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u, 0xC3D2E1F0u};
  std::array<std::uint8_t, 64> block_{};
  std::size_t filled_ = 0;
  std::uint64_t length_ = 0;
};

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
    fail("{}: can't be flushed to disk: {}", path.string(), reason(errno));
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

AtomicFile::AtomicFile(std::filesystem::path path) : path_(std::move(path)) {
  // Unique among the threads and processes that may write the same file.
  static std::atomic<std::uint64_t> serial{0};
  temporary_ = folder_of(path_) /
               fmt::format(".{}.tmp-{}-{}", path_.filename().string(), ::getpid(), serial.fetch_add(1));
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
  if (descriptor_ < 0) {
    fail("{}: can't be written: {}", path_.string(), reason(errno));
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
      fail("{}: can't be written: {}", path_.string(), reason(errno));
    }
    bytes += count;
    size -= static_cast<std::size_t>(count);
  }
}

void AtomicFile::commit() {
  if (::fsync(descriptor_) != 0 && errno != EINVAL) {
    fail("{}: can't be flushed to disk: {}", path_.string(), reason(errno));
  }
  const int descriptor = descriptor_;
  descriptor_ = -1;
  if (::close(descriptor) != 0) {
    fail("{}: can't be written: {}", path_.string(), reason(errno));
  }
  if (::rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail("{}: can't be replaced: {}", path_.string(), reason(errno));
  }
  temporary_.clear();
  sync_to_disk(folder_of(path_));
}

}  // namespace tessera
