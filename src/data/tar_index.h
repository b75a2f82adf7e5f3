#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/mapped_file.h"

namespace tessera::data {

/// A regular file in a tar: where its content lies in the tar, in bytes.
struct TarMember {
  std::string name;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
  std::size_t archive = 0;  ///< which of the archives that were joined in one file, from 0
};

/// A place where a tar can't be read: cut short, a header whose checksum is wrong, or no tar at all.
struct TarBreak {
  std::uint64_t offset = 0;    ///< in bytes, of the header or content in question
  std::uint64_t left_out = 0;  ///< bytes from there to where reading goes on
  std::string what;
};

struct TarIndex {
  std::vector<TarMember> members;
  std::vector<TarBreak> breaks;
  std::vector<std::string> links;     ///< names of links whose content is no member before them
  std::vector<std::string> specials;  ///< names of devices and pipes
};

/// Lists the regular files of a plain (not compressed) tar: ustar, GNU or pax. Archives that were joined with
/// `cat` are read one after the other, as `tar -i` does. A link, hard or symbolic, is a member with the
/// content of the one that it names. After a broken header the reader looks for the next sound one; a member
/// whose content is cut short is left out.
/// @throws Error naming the file where it is no plain tar
TarIndex index_tar(const MappedFile& file);

}  // namespace tessera::data
