#include "core/zip_file.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "core/error.h"

namespace tessera {

namespace {

// Signatures and sizes of the records, without what has a length of its own; all numbers are little-endian.
constexpr std::uint64_t kEndSignature = 0x06054b50;
constexpr std::uint64_t kEndSize = 22;
constexpr std::uint64_t kEnd64LocatorSignature = 0x07064b50;
constexpr std::uint64_t kEnd64LocatorSize = 20;
constexpr std::uint64_t kEnd64Signature = 0x06064b50;
constexpr std::uint64_t kEnd64Size = 56;
constexpr std::uint64_t kEntrySignature = 0x02014b50;
constexpr std::uint64_t kEntrySize = 46;
constexpr std::uint64_t kLocalSignature = 0x04034b50;
constexpr std::uint64_t kLocalSize = 30;
constexpr std::uint64_t kMaxComment = 0xffff;
constexpr std::uint64_t kSaturated16 = 0xffff;  // such a field stands in the zip64 record instead
constexpr std::uint64_t kSaturated32 = 0xffffffff;
constexpr std::uint64_t kExtra64 = 1;

}  // namespace

struct ZipFile::Directory {
  std::uint64_t begin;
  std::uint64_t size;
  std::uint64_t entries;
  std::uint64_t end() const { return begin + size; }
};

ZipFile::ZipFile(const std::filesystem::path& path)
    : path_(path), file_(std::make_shared<MappedFile>(path, MappedFile::Access::kCopyOnWrite)) {
  const Directory directory = find_directory();
  read_directory(directory);
  locate_contents(directory);
}

std::uint64_t ZipFile::number(std::uint64_t offset, unsigned size) const {
  const Bytes bytes = file_->bytes();
  if (offset > bytes.size() || bytes.size() - offset < size) {
    fail("{}: is cut off: {} bytes at {} are past its end ({} bytes)", path_.string(), size, offset,
         bytes.size());
  }
  std::uint64_t value = 0;
  for (unsigned i = size; i-- > 0;) value = value << 8 | std::to_integer<std::uint64_t>(bytes[offset + i]);
  return value;
}

std::string ZipFile::text(std::uint64_t offset, std::uint64_t size) const {
  const Bytes bytes = file_->bytes();
  if (offset > bytes.size() || bytes.size() - offset < size) {
    fail("{}: is cut off: a name of {} bytes at {} is past its end ({} bytes)", path_.string(), size, offset,
         bytes.size());
  }
  return {reinterpret_cast<const char*>(bytes.data()) + offset, size};
}

/// From the records at the file's end. The first is found by its signature, before a comment that has to
/// reach exactly to the end.
ZipFile::Directory ZipFile::find_directory() const {
  const std::string file = path_.string();
  const std::uint64_t file_size = file_->bytes().size();
  std::optional<std::uint64_t> end;
  for (std::uint64_t back = kEndSize; back <= std::min(file_size, kEndSize + kMaxComment) && !end; ++back) {
    const std::uint64_t at = file_size - back;
    if (number(at, 4) == kEndSignature && number(at + 20, 2) == back - kEndSize) end = at;
  }
  if (!end) fail("{}: is no zip archive, or is cut off: it has no directory at its end", file);
  if (number(*end + 4, 2) != 0 || number(*end + 6, 2) != 0) {
    fail("{}: is one part of a zip archive in several", file);
  }
  Directory directory{number(*end + 16, 4), number(*end + 12, 4), number(*end + 10, 2)};
  std::uint64_t limit = *end;
  const bool has_64 =
      *end >= kEnd64LocatorSize && number(*end - kEnd64LocatorSize, 4) == kEnd64LocatorSignature;
  if (has_64) {
    const std::uint64_t locator = *end - kEnd64LocatorSize;
    limit = number(locator + 8, 8);
    if (limit > locator || locator - limit < kEnd64Size || number(limit, 4) != kEnd64Signature) {
      fail("{}: its zip64 end record is not where the file says ({})", file, limit);
    }
    const Directory wide{number(limit + 48, 8), number(limit + 40, 8), number(limit + 32, 8)};
    const auto agrees = [](std::uint64_t narrow, std::uint64_t full, std::uint64_t saturated) {
      return narrow == full || narrow == saturated;
    };
    if (!agrees(directory.begin, wide.begin, kSaturated32) ||
        !agrees(directory.size, wide.size, kSaturated32) ||
        !agrees(directory.entries, wide.entries, kSaturated16)) {
      fail("{}: its zip and zip64 end records contradict each other", file);
    }
    directory = wide;
  }
  if (directory.begin > limit || limit - directory.begin != directory.size) {
    fail("{}: its directory ({} bytes at {}) does not end where the end record begins ({})", file,
         directory.size, directory.begin, limit);
  }
  return directory;
}

void ZipFile::read_directory(const Directory& directory) {
  const std::string file = path_.string();
  std::uint64_t at = directory.begin;
  std::uint64_t count = 0;
  for (; at != directory.end(); ++count) {
    const std::uint64_t left = directory.end() - at;
    if (left < kEntrySize || number(at, 4) != kEntrySignature) {
      fail("{}: its directory is damaged at {}", file, at);
    }
    const std::uint64_t name_size = number(at + 28, 2);
    const std::uint64_t extra_size = number(at + 30, 2);
    const std::uint64_t total = kEntrySize + name_size + extra_size + number(at + 32, 2);
    if (left < total) fail("{}: its directory is damaged at {}: an entry reaches past its end", file, at);
    const std::string name = text(at + kEntrySize, name_size);
    std::uint64_t stored = number(at + 20, 4);
    std::uint64_t unpacked = number(at + 24, 4);
    std::uint64_t header = number(at + 42, 4);
    // What does not fit the fields is in the zip64 extra field, in this order.
    const std::uint64_t extra_end = at + kEntrySize + name_size + extra_size;
    for (std::uint64_t extra = at + kEntrySize + name_size; extra_end - extra >= 4;) {
      const std::uint64_t kind = number(extra, 2);
      const std::uint64_t end = extra + 4 + number(extra + 2, 2);
      if (end > extra_end) fail("{}: {}: its extra field is damaged", file, quoted(name));
      std::uint64_t next = extra + 4;
      if (kind == kExtra64) {
        for (std::uint64_t* field : {&unpacked, &stored, &header}) {
          if (*field != kSaturated32) continue;
          if (end - next < 8) fail("{}: {}: its zip64 field is too short", file, quoted(name));
          *field = number(next, 8);
          next += 8;
        }
      }
      extra = end;
    }
    const auto method = static_cast<std::uint16_t>(number(at + 10, 2));
    if (method == 0 && stored != unpacked) {
      fail("{}: {}: is stored as it is, but with two sizes ({} and {} bytes)", file, quoted(name), stored,
           unpacked);
    }
    const bool encrypted = (number(at + 8, 2) & 1) != 0;
    if (!members_.emplace(name, Member{header, 0, stored, method, encrypted}).second) {
      fail("{}: {} is there twice", file, quoted(name));
    }
    at += total;
  }
  if (count != directory.entries) {
    fail("{}: its directory has {} entries, the end record says {}", file, count, directory.entries);
  }
}

/// Contents lie after their local headers, whose lengths differ from the directory's (torch aligns with
/// them).
void ZipFile::locate_contents(const Directory& directory) {
  const std::string file = path_.string();
  std::vector<std::pair<const std::string, Member>*> order;
  for (auto& member : members_) order.push_back(&member);
  std::sort(order.begin(), order.end(),
            [](const auto* left, const auto* right) { return left->second.header < right->second.header; });
  std::uint64_t free = 0;
  for (auto* named : order) {
    auto& [name, member] = *named;
    if (member.header < free) fail("{}: {}: overlaps another member", file, quoted(name));
    if (member.header > directory.begin || directory.begin - member.header < kLocalSize ||
        number(member.header, 4) != kLocalSignature) {
      fail("{}: {}: there is no local header at {}", file, quoted(name), member.header);
    }
    const std::uint64_t name_size = number(member.header + 26, 2);
    if (text(member.header + kLocalSize, name_size) != name) {
      fail("{}: {}: has another name in its local header", file, quoted(name));
    }
    member.begin = member.header + kLocalSize + name_size + number(member.header + 28, 2);
    if (member.begin > directory.begin || directory.begin - member.begin < member.size) {
      fail("{}: {}: its {} bytes at {} reach past the last content", file, quoted(name), member.size,
           member.begin);
    }
    free = member.begin + member.size;
  }
}

Bytes ZipFile::content(const std::string& name) const {
  const auto found = members_.find(name);
  if (found == members_.end()) fail("{}: {} is missing", path_.string(), quoted(name));
  const Member& member = found->second;
  if (member.encrypted) fail("{}: {}: is encrypted", path_.string(), quoted(name));
  if (member.method != 0) {
    fail("{}: {}: is compressed (method {}); only stored members are read, as torch.save writes them",
         path_.string(), quoted(name), member.method);
  }
  return file_->bytes().subspan(member.begin, member.size);
}

}  // namespace tessera
