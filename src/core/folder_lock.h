#pragma once

#include <filesystem>
#include <string>

namespace tessera {

/// What came of asking for a lock without waiting.
enum class LockState {
  kHeld,
  kTaken,       ///< somebody else holds it
  kGone,        ///< there is no such folder, or no longer: whoever held its lock may have removed it
  kImpossible,  ///< the file system knows no locks
};

/// Held while a program changes a folder or a file in it: another program that asks for the same waits, or is
/// told. Leaves nothing behind, whatever becomes of the program. Locks only those who ask for it; on a
/// network file system perhaps only those on the same machine.
class FolderLock {
 public:
  /// Waits for the lock. @throws Error naming the folder where it can't be opened or locked
  explicit FolderLock(const std::filesystem::path& folder);
  /// Doesn't wait: state() says what came of it. @throws Error naming the folder where it is there and can't
  /// be opened
  static FolderLock try_lock(const std::filesystem::path& folder);
  ~FolderLock();
  FolderLock(FolderLock&& other) noexcept;
  FolderLock& operator=(FolderLock&& other) noexcept;

  LockState state() const { return state_; }

 private:
  FolderLock(int descriptor, LockState state) : descriptor_(descriptor), state_(state) {}

  int descriptor_;
  LockState state_ = LockState::kHeld;
};

/// Who holds a folder's lock, as far as this machine tells: "process 4711 (stage1_train) on node7"; empty
/// where it doesn't.
std::string lock_holder(const std::filesystem::path& folder);

}  // namespace tessera
