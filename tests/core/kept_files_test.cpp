#include "core/kept_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "core/files.h"
#include "core/publish_folder.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class KeptFilesTest : public ::testing::Test {
 protected:
  fs::path path(const std::string& name) const { return folder_.path() / name; }
  void write(const std::string& name, const std::string& content) const {
    fs::create_directories(path(name).parent_path());
    write_file_atomically(path(name), content);
  }
  std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()));
  }

  TemporaryFolder folder_;
};

TEST_F(KeptFilesTest, WhatElseIsThereIsKept) {
  write("a/file", "old");
  write("a/NOTES.md", "notes");
  write("a/.git/objects/ab/cd", "object");
  write("a/inner/file", "stale");
  write("a/inner/README", "readme");
  fs::create_directories(path("a/.git/refs/heads"));  // empty, but no repository without it
  fs::create_symlink("NOTES.md", path("a/link"));
  fs::create_symlink("nowhere", path("a/dangling"));
  KeptFiles kept;
  publish_folder(path("a"), [&](const fs::path& fresh) {
    write_file_atomically(fresh / "file", "new");
    kept = keep_other_files(path("a"), fresh, [](const fs::path& name) { return name == "inner/file"; });
  });
  EXPECT_EQ(read_file(path("a/file")), "new");
  EXPECT_EQ(read_file(path("a/NOTES.md")), "notes");
  EXPECT_EQ(read_file(path("a/.git/objects/ab/cd")), "object");
  EXPECT_EQ(read_file(path("a/inner/README")), "readme");
  EXPECT_FALSE(fs::exists(path("a/inner/file")));
  EXPECT_EQ(fs::read_symlink(path("a/link")), "NOTES.md");
  EXPECT_EQ(fs::read_symlink(path("a/dangling")), "nowhere");
  EXPECT_TRUE(fs::is_directory(path("a/.git/refs/heads")));
  EXPECT_EQ(kept.count, 6u);
  EXPECT_EQ(entries(), 1u);
}

TEST_F(KeptFilesTest, WhatCannotBeKeptIsNamedAndEverythingStays) {
  write("a/file", "old");
  ASSERT_EQ(::mkfifo(path("a/pipe").c_str(), 0600), 0);
  EXPECT_THAT(error_of([&] {
                publish_folder(path("a"), [&](const fs::path& fresh) {
                  keep_other_files(path("a"), fresh, [](const fs::path&) { return false; });
                });
              }),
              HasSubstr("a/pipe"));
  EXPECT_EQ(read_file(path("a/file")), "old");
  EXPECT_TRUE(fs::is_fifo(path("a/pipe")));
  EXPECT_EQ(entries(), 1u);
}

}  // namespace
}  // namespace tessera
