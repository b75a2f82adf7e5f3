#include "core/publish_folder.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/files.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

std::function<void(const fs::path&)> writer(const std::string& text) {
  return [text](const fs::path& folder) { write_file_atomically(folder / "file", text); };
}

std::ptrdiff_t entries(const fs::path& folder) {
  return std::distance(fs::directory_iterator(folder), fs::directory_iterator());
}

TEST(PublishFolderTest, ReplacesAFolderAndLeavesNothingElse) {
  const TemporaryFolder parent;
  const fs::path place = parent.path() / "folder";
  publish_folder(place, writer("old"));
  publish_folder(place, writer("new"));
  EXPECT_EQ(read_file(place / "file"), "new");
  EXPECT_EQ(entries(parent.path()), 1);
}

TEST(PublishFolderTest, FailureLeavesTheOldFolder) {
  const TemporaryFolder parent;
  const fs::path place = parent.path() / "folder";
  publish_folder(place, writer("old"));
  EXPECT_EQ(error_of([&] { publish_folder(place, [](const fs::path&) { fail("no room"); }); }), "no room");
  EXPECT_EQ(read_file(place / "file"), "old");
  EXPECT_EQ(entries(parent.path()), 1);
}

TEST(PublishFolderTest, ASecondWriterIsRefusedAndDisturbsNothing) {
  const TemporaryFolder parent;
  const fs::path place = parent.path() / "folder";
  std::string refused;
  publish_folder(place, [&](const fs::path& folder) {
    write_file_atomically(folder / "file", "first");
    refused = error_of([&] { publish_folder(place, writer("second")); });
  });
  EXPECT_NE(refused.find(place.string()), std::string::npos) << refused;
  EXPECT_NE(refused.find("another process"), std::string::npos) << refused;
  EXPECT_EQ(read_file(place / "file"), "first");
  EXPECT_EQ(entries(parent.path()), 1);
}

TEST(PublishFolderTest, ClearsWhatAKilledProcessLeft) {
  const TemporaryFolder parent;
  const fs::path left = parent.path() / ".writing-folder";
  fs::create_directories(left / "inside");
  write_file_atomically(left / "half", "half");
  publish_folder(parent.path() / "folder", writer("whole"));
  EXPECT_EQ(entries(parent.path() / "folder"), 1);
  EXPECT_EQ(entries(parent.path()), 1);
}

}  // namespace
}  // namespace tessera
