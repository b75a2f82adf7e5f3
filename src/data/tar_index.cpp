#include "data/tar_index.h"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <memory>

#include "core/error.h"

namespace tessera::data {
namespace {

constexpr std::size_t kBlock = 512;

using TarReader = std::unique_ptr<archive, decltype(&archive_read_free)>;

TarReader open_reader(const MappedFile& file) {
  TarReader reader(archive_read_new(), &archive_read_free);
  if (!reader) throw std::bad_alloc();
  archive_read_support_format_tar(reader.get());
  if (archive_read_open_memory(reader.get(), file.bytes().data(), file.bytes().size()) != ARCHIVE_OK) {
    fail("{}: can't be opened as a tar: {}", file.path().string(), archive_error_string(reader.get()));
  }
  return reader;
}

/// libarchive's ARCHIVE_RETRY ("this entry failed, the next may not") lies between the two as a number.
bool is_usable(int status) { return status == ARCHIVE_OK || status == ARCHIVE_WARN; }

std::string error_text(archive* reader) {
  const char* text = archive_error_string(reader);
  return text != nullptr ? text : "unreadable";
}

/// Where a member's content lies. libarchive hands out pointers into the memory it was opened on as long as
/// the content is stored plainly; anything else (a sparse file) has no offset to keep. Returns false where
/// the content is cut short.
bool locate_content(archive* reader, const MappedFile& file, TarMember& member, TarIndex& index) {
  const std::byte* base = file.bytes().data();
  std::uint64_t found = 0;
  while (true) {
    const void* block = nullptr;
    std::size_t size = 0;
    la_int64_t at = 0;
    const int status = archive_read_data_block(reader, &block, &size, &at);
    if (status == ARCHIVE_EOF) break;
    const auto* bytes = static_cast<const std::byte*>(block);
    const bool inside =
        is_usable(status) && (size == 0 || (bytes >= base && bytes + size <= base + file.bytes().size()));
    if (!inside) {
      index.breaks.push_back({static_cast<std::uint64_t>(archive_read_header_position(reader)),
                              fmt::format("member '{}': {}", member.name,
                                          !is_usable(status) ? error_text(reader) : "not stored plainly")});
      return false;
    }
    if (size == 0) continue;
    const auto offset = static_cast<std::uint64_t>(bytes - base);
    if (found == 0) member.offset = offset;
    if (offset != member.offset + found || static_cast<std::uint64_t>(at) != found) {
      index.breaks.push_back({offset, fmt::format("member '{}': a sparse file", member.name)});
      return false;
    }
    found += size;
  }
  if (found != member.size) {
    index.breaks.push_back(
        {member.offset, fmt::format("member '{}': {} of {} bytes", member.name, found, member.size)});
    return false;
  }
  return true;
}

/// A tar ends with blocks of zeros; one that was cut between two members has none.
bool ends_with_zeros(const MappedFile& file) {
  const Bytes bytes = file.bytes();
  const Bytes block = bytes.last(std::min<std::size_t>(bytes.size(), kBlock));
  return std::all_of(block.begin(), block.end(), [](std::byte b) { return b == std::byte{0}; });
}

/// Names from pax headers are UTF-8, which the first call can't give in a locale that has no such characters.
const char* name_of(archive_entry* entry) {
  const char* name = archive_entry_pathname(entry);
  return name != nullptr ? name : archive_entry_pathname_utf8(entry);
}

}  // namespace

TarIndex index_tar(const MappedFile& file) {
  const TarReader reader = open_reader(file);
  TarIndex index;
  bool any_header = false;
  bool broken_before = false;  // one break is reported once, however many headers are tried after it
  while (true) {
    archive_entry* entry = nullptr;
    const int status = archive_read_next_header(reader.get(), &entry);
    if (status == ARCHIVE_EOF) break;
    if (!is_usable(status)) {
      const std::string what = error_text(reader.get());
      if (status == ARCHIVE_FATAL && !any_header) {
        fail("{}: expected a plain, uncompressed tar: {}", file.path().string(), what);
      }
      const auto position = static_cast<std::uint64_t>(archive_read_header_position(reader.get()));
      if (!broken_before) index.breaks.push_back({position, what});
      broken_before = true;
      if (status == ARCHIVE_FATAL) return index;
      continue;
    }
    any_header = true;
    broken_before = false;
    const char* name = name_of(entry);
    const bool file_with_content =
        archive_entry_filetype(entry) == AE_IFREG && archive_entry_hardlink(entry) == nullptr;
    if (name == nullptr || !file_with_content) continue;
    TarMember member{name, 0, static_cast<std::uint64_t>(std::max<la_int64_t>(0, archive_entry_size(entry)))};
    broken_before = !locate_content(reader.get(), file, member, index);
    if (!broken_before) index.members.push_back(std::move(member));
  }
  if (index.breaks.empty() && !ends_with_zeros(file)) {
    index.breaks.push_back({file.bytes().size(), "no end-of-archive mark; was the file cut short?"});
  }
  return index;
}

}  // namespace tessera::data
