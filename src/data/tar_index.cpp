#include "data/tar_index.h"

#include <archive.h>
#include <archive_entry.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string_view>
#include <unordered_map>

#include "core/error.h"
#include "core/file_kind.h"

namespace tessera::data {
namespace {

constexpr std::size_t kTarBlock = 512;
/// Zeros that a tar may end with, to fill a record: tar's own has 10 KiB, the largest that is in use 1 MiB.
constexpr std::uint64_t kMostPadding = 4 << 20;

using TarReader = std::unique_ptr<archive, decltype(&archive_read_free)>;

/// libarchive's ARCHIVE_RETRY ("this entry failed, the next may not") lies between the two as a number.
bool is_usable(int status) { return status == ARCHIVE_OK || status == ARCHIVE_WARN; }

std::string error_text(archive* reader) {
  const char* text = archive_error_string(reader);
  return text != nullptr ? text : "unreadable";
}

/// Names from pax headers are UTF-8, which the first call can't give in a locale that has no such characters.
std::string member_name(archive_entry* entry) {
  const char* name = archive_entry_pathname(entry);
  if (name == nullptr) name = archive_entry_pathname_utf8(entry);
  return name != nullptr ? name : "";
}

std::string hardlink_of(archive_entry* entry) {
  const char* name = archive_entry_hardlink(entry);
  if (name == nullptr) name = archive_entry_hardlink_utf8(entry);
  return name != nullptr ? name : "";
}

std::string symlink_of(archive_entry* entry) {
  const char* name = archive_entry_symlink(entry);
  if (name == nullptr) name = archive_entry_symlink_utf8(entry);
  return name != nullptr ? name : "";
}

/// Names differ in "./" and "..", by what packed them.
std::string plain_name(const std::string& name) {
  return std::filesystem::path(name).lexically_normal().string();
}

/// What a link leads to, as a plain name in the tar; empty of what is no link. A symbolic link's target
/// counts from the folder that it lies in.
std::string linked_name(archive_entry* entry, const std::string& name) {
  if (const std::string target = hardlink_of(entry); !target.empty()) return plain_name(target);
  const std::string target = symlink_of(entry);
  if (target.empty()) return {};
  return plain_name((std::filesystem::path(name).parent_path() / target).string());
}

class TarIndexer {
 public:
  explicit TarIndexer(const MappedFile& file) : file_(file), reader_(open()) {}

  TarIndex index() {
    while (true) {
      archive_entry* entry = nullptr;
      const int status = archive_read_next_header(reader_.get(), &entry);
      if (status == ARCHIVE_EOF) break;
      if (is_usable(status)) {
        add(entry);
        continue;
      }
      const std::string what = error_text(reader_.get());
      if (status == ARCHIVE_FATAL && !any_header_) {
        refuse(what);
      }
      add_header_break(what);
      if (status == ARCHIVE_FATAL) break;
    }
    end_break(size());
    if (size() - std::min(size(), reached_) > kMostPadding && after_zeros(reached_) == size()) {
      if (!any_header_) refuse("nothing but zeros; was its download or copy ended early?");
      index_.breaks.push_back({reached_, size() - reached_,
                               "nothing but zeros from here on; was its download or copy ended early?"});
    }
    if (index_.breaks.empty() && !ends_with_zeros()) {
      index_.breaks.push_back({size(), 0, "no end-of-archive mark; was the file cut short?"});
    }
    return std::move(index_);
  }

 private:
  TarReader open() const {
    TarReader reader(archive_read_new(), &archive_read_free);
    if (!reader) throw std::bad_alloc();
    archive_read_support_format_tar(reader.get());
    if (archive_read_set_options(reader.get(), "tar:read_concatenated_archives") != ARCHIVE_OK ||
        archive_read_open_memory(reader.get(), file_.bytes().data(), file_.bytes().size()) != ARCHIVE_OK) {
      refuse(error_text(reader.get()));
    }
    return reader;
  }

  [[noreturn]] void refuse(const std::string& what) const {
    refuse_other_kind(file_.bytes(), file_.path().string(), "plain, uncompressed tar", {FileKind::kTar});
    fail("{}: expected a plain, uncompressed tar: {}", file_.path().string(), what);
  }

  std::uint64_t size() const { return file_.bytes().size(); }

  /// The first block from a place on that isn't zeros, or the file's end.
  std::uint64_t after_zeros(std::uint64_t at) const {
    const Bytes bytes = file_.bytes();
    while (at < size()) {
      const Bytes block = bytes.subspan(at, std::min<std::uint64_t>(kTarBlock, size() - at));
      if (std::any_of(block.begin(), block.end(), [](std::byte b) { return b != std::byte{0}; })) return at;
      at += block.size();
    }
    return size();
  }

  /// A tar ends with blocks of zeros; one that was cut between two members has none.
  bool ends_with_zeros() const {
    const std::uint64_t last = size() - std::min<std::uint64_t>(size(), kTarBlock);
    return after_zeros(last) == size();
  }

  void add(archive_entry* entry) {
    const auto header = static_cast<std::uint64_t>(archive_read_header_position(reader_.get()));
    end_break(header);
    if (any_header_ && after_zeros(header) != header) ++archive_;
    any_header_ = true;
    reached_ = header + kTarBlock;
    TarMember member{member_name(entry), 0, 0, archive_};
    const std::string linked = linked_name(entry, member.name);
    if (member.name.empty() || archive_entry_filetype(entry) == AE_IFDIR) return;
    if (linked.empty() && archive_entry_filetype(entry) != AE_IFREG) {
      index_.specials.push_back(member.name);
      return;
    }
    if (linked.empty()) {
      member.size = static_cast<std::uint64_t>(std::max<la_int64_t>(0, archive_entry_size(entry)));
      if (locate_content(member)) keep(std::move(member));
      return;
    }
    const auto target = by_name_.find(linked);
    if (target == by_name_.end()) {
      index_.links.push_back(member.name);
      return;
    }
    const TarMember& content = index_.members[target->second];
    member.offset = content.offset;
    member.size = content.size;
    keep(std::move(member));
  }

  void keep(TarMember member) {
    reached_ = std::max(reached_, (member.offset + member.size + kTarBlock - 1) / kTarBlock * kTarBlock);
    by_name_[plain_name(member.name)] = index_.members.size();
    index_.members.push_back(std::move(member));
  }

  /// Where a member's content lies. libarchive hands out pointers into the memory it was opened on as long as
  /// the content is stored plainly; anything else (a sparse file) has no offset to keep. Returns false where
  /// the content is cut short.
  bool locate_content(TarMember& member) {
    archive* reader = reader_.get();
    const std::byte* base = file_.bytes().data();
    std::uint64_t found = 0;
    while (true) {
      const void* block = nullptr;
      std::size_t block_size = 0;
      la_int64_t at = 0;
      const int status = archive_read_data_block(reader, &block, &block_size, &at);
      if (status == ARCHIVE_EOF) break;
      const auto* bytes = static_cast<const std::byte*>(block);
      const bool inside =
          is_usable(status) && (block_size == 0 || (bytes >= base && bytes + block_size <= base + size()));
      if (!inside) {
        begin_break(static_cast<std::uint64_t>(archive_read_header_position(reader)),
                    fmt::format("member '{}': {}", member.name,
                                !is_usable(status) ? error_text(reader) : "not stored plainly"));
        return false;
      }
      if (block_size == 0) continue;
      const auto offset = static_cast<std::uint64_t>(bytes - base);
      if (found == 0) member.offset = offset;
      if (offset != member.offset + found || static_cast<std::uint64_t>(at) != found) {
        begin_break(offset, fmt::format("member '{}': a sparse file", member.name));
        return false;
      }
      found += block_size;
    }
    if (found == member.size) return true;
    begin_break(member.offset, fmt::format("member '{}': {} of {} bytes", member.name, found, member.size));
    return false;
  }

  /// One break is reported once, however many headers are tried after it.
  void begin_break(std::uint64_t offset, std::string what) {
    if (in_break_) return;
    in_break_ = true;
    index_.breaks.push_back({offset, 0, std::move(what)});
  }

  void add_header_break(const std::string& what) {
    // Where the file ends within a block the reader says no position.
    const la_int64_t position = archive_read_header_position(reader_.get());
    const std::uint64_t header = position >= 0 ? static_cast<std::uint64_t>(position) : reached_;
    const std::uint64_t place = after_zeros(std::min(header, size()));
    if (place == size()) return;  // zeros to the end, if not whole blocks of them
    begin_break(place, place == header ? what : fmt::format("no tar after an archive's end: {}", what));
  }

  void end_break(std::uint64_t place) {
    if (in_break_) index_.breaks.back().left_out = place - std::min(place, index_.breaks.back().offset);
    in_break_ = false;
  }

  const MappedFile& file_;
  TarReader reader_;
  TarIndex index_;
  std::unordered_map<std::string, std::size_t> by_name_;  ///< the last member of each name
  std::size_t archive_ = 0;
  std::uint64_t reached_ = 0;  ///< the end of what was read so far
  bool any_header_ = false;
  bool in_break_ = false;
};

}  // namespace

TarIndex index_tar(const MappedFile& file) { return TarIndexer(file).index(); }

}  // namespace tessera::data
