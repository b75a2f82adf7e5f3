#include "core/folder_lock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/files.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

TEST(FolderLockTest, ThoseWhoChangeAFileTakeTurns) {
  const TemporaryFolder folder;
  const auto file = folder.path() / "count";
  write_file_atomically(file, "0");
  const auto add_some = [&] {
    for (int i = 0; i < 50; ++i) {
      const FolderLock lock(folder.path());
      write_file_atomically(file, std::to_string(std::stoi(read_file(file)) + 1));
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) threads.emplace_back(add_some);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(read_file(file), "200");
}

TEST(FolderLockTest, TryingSaysWhetherSomebodyElseHoldsIt) {
  const TemporaryFolder folder;
  {
    const FolderLock first = FolderLock::try_lock(folder.path());
    EXPECT_EQ(first.state(), LockState::kHeld);
    EXPECT_EQ(FolderLock::try_lock(folder.path()).state(), LockState::kTaken);
    const std::string holder = lock_holder(folder.path());
    EXPECT_NE(holder.find("process " + std::to_string(::getpid()) + " (core_tests) on "), std::string::npos)
        << holder;
  }
  EXPECT_EQ(lock_holder(folder.path()), "");
  EXPECT_EQ(FolderLock::try_lock(folder.path()).state(), LockState::kHeld);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(FolderLockTest, MovesWithItsOwner) {
  const TemporaryFolder folder;
  std::vector<FolderLock> held;
  held.push_back(FolderLock::try_lock(folder.path()));
  held.push_back(FolderLock::try_lock(folder.path()));
  EXPECT_EQ(held[0].state(), LockState::kHeld);
  EXPECT_EQ(held[1].state(), LockState::kTaken);
  held.clear();
  EXPECT_EQ(FolderLock::try_lock(folder.path()).state(), LockState::kHeld);
}

TEST(FolderLockTest, NamesAFolderThatIsNotThere) {
  const std::string error = error_of([] { FolderLock("/nowhere/at/all"); });
  EXPECT_NE(error.find("/nowhere/at/all"), std::string::npos) << error;
  EXPECT_EQ(FolderLock::try_lock("/nowhere/at/all").state(), LockState::kGone);
}

}  // namespace
}  // namespace tessera
