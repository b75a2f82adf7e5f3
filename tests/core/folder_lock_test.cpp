#include "core/folder_lock.h"

#include <gtest/gtest.h>

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

TEST(FolderLockTest, NamesAFolderThatIsNotThere) {
  const std::string error = error_of([] { FolderLock("/nowhere/at/all"); });
  EXPECT_NE(error.find("/nowhere/at/all"), std::string::npos) << error;
}

}  // namespace
}  // namespace tessera
