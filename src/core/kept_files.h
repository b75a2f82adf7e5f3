#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>

namespace tessera {

/// What a new folder has of the old one that it replaces.
struct KeptFiles {
  std::size_t count = 0;
  std::filesystem::path first;  ///< below the folder
};

/// Brings what is in `old` and not in `fresh` into `fresh`, in folders below too and empty folders, but for
/// what `is_stale` says of a path below `old`. Files become hard links, or copies where there can be none;
/// links stay links.
/// @throws Error naming what is neither file, folder nor link
KeptFiles keep_other_files(const std::filesystem::path& old, const std::filesystem::path& fresh,
                           const std::function<bool(const std::filesystem::path&)>& is_stale);

}  // namespace tessera
