#include "core/kept_files.h"

#include <system_error>

#include "core/error.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

void keep_one(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::create_hard_link(from, to, error);
  if (error) fs::copy_file(from, to);
}

}  // namespace

KeptFiles keep_other_files(const fs::path& old, const fs::path& fresh,
                           const std::function<bool(const fs::path&)>& is_stale) {
  KeptFiles kept;
  const auto end = fs::recursive_directory_iterator();
  for (auto at = fs::recursive_directory_iterator(old); at != end; ++at) {
    const fs::path name = at->path().lexically_relative(old), place = fresh / name;
    const fs::file_status there = fs::symlink_status(place);
    if (at->is_directory() && !at->is_symlink()) {
      if (fs::exists(there) && !fs::is_directory(there)) at.disable_recursion_pending();
      // Folders come with what they hold, but for one that holds nothing: git's .git/refs is no repository
      // without.
      if (!fs::is_empty(at->path()) || fs::exists(there) || is_stale(name)) continue;
      fs::create_directories(place);
      if (kept.count++ == 0) kept.first = name;
      continue;
    }
    if (fs::exists(there) || is_stale(name)) continue;
    if (!at->is_symlink() && !at->is_regular_file()) {
      fail("{}: is neither file, folder nor link, and can't be kept in the new folder; move it away",
           at->path().string());
    }
    fs::create_directories(place.parent_path());
    at->is_symlink() ? fs::copy_symlink(at->path(), place) : keep_one(at->path(), place);
    if (kept.count++ == 0) kept.first = name;
  }
  return kept;
}

}  // namespace tessera
