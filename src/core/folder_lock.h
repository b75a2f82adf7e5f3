#pragma once

#include <filesystem>

namespace tessera {

/// Held while a program reads a file of this folder, changes it and writes it back: another program that does
/// the same waits. Leaves nothing behind, whatever becomes of the program. Locks only those who ask for it.
class FolderLock {
 public:
  /// Waits for the lock. @throws Error naming the folder where it can't be opened or locked
  explicit FolderLock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int descriptor_;
};

}  // namespace tessera
