#include "core/publish_folder.h"

#include <fcntl.h>
#include <stdio.h>

#include <cerrno>
#include <system_error>

#include "core/error.h"
#include "core/files.h"
#include "core/folder_lock.h"

namespace tessera {

namespace fs = std::filesystem;

namespace {

/// Everything below a folder, then the folder itself: a rename that is on disk before the content is no
/// folder yet.
void sync_tree(const fs::path& folder) {
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    if (entry.is_symlink()) continue;  // an entry of its folder and nothing more
    if (entry.is_directory()) {
      sync_tree(entry.path());
    } else {
      sync_to_disk(entry.path());
    }
  }
  sync_to_disk(folder);
}

/// Swaps two folders in one step, so that there is no moment without either.
void exchange(const fs::path& left, const fs::path& right) {
  if (renameat2(AT_FDCWD, left.c_str(), AT_FDCWD, right.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) {
    fail("{}: cannot put the new folder in place: {}", right.string(), system_message(errno));
  }
  // A file system without the exchange: the old folder goes first, under a name that it can be found by.
  const fs::path old = right.parent_path() / (kReplacedFolderPrefix + right.filename().string());
  fs::remove_all(old);
  fs::rename(right, old);
  fs::rename(left, right);
  fs::remove_all(old);
}

/// Puts a folder where there is nothing.
void move_to_free_place(const fs::path& from, const fs::path& to, OldFolder old_folder) {
  if (old_folder == OldFolder::kReplace) {
    fs::rename(from, to);
    return;
  }
  if (renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS)
    throw fs::filesystem_error("", to, {errno, std::generic_category()});
  fs::rename(from, to);  // on such a file system an empty folder would be replaced, and no other
}

/// The empty temporary folder, this process's alone. What a killed process left there is cleared away.
FolderLock claim(const fs::path& temporary, const fs::path& target) {
  fs::create_directories(temporary);
  FolderLock lock = FolderLock::try_lock(temporary);
  if (lock.state() == LockState::kTaken || lock.state() == LockState::kGone) {
    const std::string holder = lock_holder(temporary);
    fail("{}: another process{} is writing this folder at the moment", target.string(),
         holder.empty() ? "" : ", " + holder + ",");
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(temporary)) fs::remove_all(entry.path());
  return lock;
}

void put_in_place(const fs::path& temporary, const fs::path& place, OldFolder old_folder) {
  if (!fs::exists(place) || old_folder == OldFolder::kRefuse) {
    move_to_free_place(temporary, place, old_folder);
    return;
  }
  exchange(temporary, place);
  if (!fs::exists(temporary)) return;
  // The old folder's lock is free: whoever wants to write next may have taken it already, and then clears it.
  const FolderLock old = FolderLock::try_lock(temporary);
  if (old.state() != LockState::kTaken) fs::remove_all(temporary);
}

}  // namespace

void restore_replaced_folder(const fs::path& replaced) {
  const std::string name = replaced.filename().string();
  const fs::path place = replaced.parent_path() / name.substr(std::string(kReplacedFolderPrefix).size());
  if (fs::exists(place)) {
    fs::remove_all(replaced);
  } else {
    fs::rename(replaced, place);
  }
}

void publish_folder(const fs::path& target, const std::function<void(const fs::path&)>& write,
                    OldFolder old_folder) {
  fs::path place = fs::absolute(target).lexically_normal();
  // A trailing separator would put the temporary folder inside the one that it replaces.
  if (!place.has_filename()) place = place.parent_path();
  if (fs::is_symlink(place) && fs::is_directory(place)) place = fs::canonical(place);
  const fs::path temporary = place.parent_path() / (kUnfinishedFolderPrefix + place.filename().string());
  try {
    const FolderLock lock = claim(temporary, target);
    const fs::path replaced = place.parent_path() / (kReplacedFolderPrefix + place.filename().string());
    if (fs::exists(replaced)) restore_replaced_folder(replaced);
    try {
      write(temporary);
      sync_tree(temporary);
      put_in_place(temporary, place, old_folder);
    } catch (...) {
      std::error_code ignored;
      fs::remove_all(temporary, ignored);
      throw;
    }
    sync_to_disk(place.parent_path());
  } catch (const fs::filesystem_error& error) {
    fail("{}: the folder can't be written: {}", target.string(), error.code().message());
  }
}

}  // namespace tessera
