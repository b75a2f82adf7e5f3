#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "core/mapped_file.h"

namespace tessera {

/// The directory of a zip archive (PKWARE's APPNOTE.TXT, zip64 included), memory-mapped copy-on-write, for
/// archives whose members are stored as they are, as torch.save writes them. Nothing in the file is trusted:
/// every offset and size is checked against the file, members may not overlap, no name may come twice, and
/// the places that say the same thing (directory and local headers, zip and zip64 end records) have to agree.
/// Checksums are not verified: that would read every byte of a mapped file, and torch writes files without
/// them too (torch.serialization.set_crc32_options). Every complaint is an Error that names the file and,
/// where there is one, the member.
class ZipFile {
 public:
  explicit ZipFile(const std::filesystem::path& path);

  struct Member {
    std::uint64_t header;  ///< where its local header begins
    std::uint64_t begin;   ///< where its content begins
    std::uint64_t size;    ///< bytes in the file
    std::uint16_t method;  ///< 0: stored as it is
    bool encrypted = false;
  };

  const std::map<std::string, Member>& members() const { return members_; }
  bool contains(const std::string& name) const { return members_.count(name) != 0; }

  /// The content of a member, which lives as long as file() does.
  /// @throws Error where there is none of that name, or where it is compressed or encrypted
  Bytes content(const std::string& name) const;

  const std::shared_ptr<const MappedFile>& file() const { return file_; }

 private:
  struct Directory;

  Directory find_directory() const;
  void read_directory(const Directory& directory);
  void locate_contents(const Directory& directory);
  std::uint64_t number(std::uint64_t offset, unsigned size) const;
  std::string text(std::uint64_t offset, std::uint64_t size) const;

  std::filesystem::path path_;
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, Member> members_;
};

}  // namespace tessera
