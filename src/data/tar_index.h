#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/mapped_file.h"

namespace tessera::data {

/// A regular file in a tar: where its content lies in the mapped tar, in bytes.
struct TarMember {
  std::string name;
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

/// A place where a tar can't be read: cut short, or a header whose checksum is wrong.
struct TarBreak {
  std::uint64_t offset = 0;  ///< in bytes, of the header or content in question
  std::string what;
};

struct TarIndex {
  std::vector<TarMember> members;
  std::vector<TarBreak> breaks;
};

/// Lists the regular files of a plain (not compressed) tar: ustar, GNU or pax. After a broken header the
/// reader looks for the next sound one; a member whose content is cut short is left out.
/// @throws Error naming the file where it is no plain tar
TarIndex index_tar(const MappedFile& file);

}  // namespace tessera::data
