#include "core/publish_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "core/files.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class PublishFolder : public ::testing::Test {
 protected:
  fs::path path(const std::string& name) const { return folder_.path() / name; }
  void write(const std::string& name, const std::string& content) const {
    fs::create_directories(path(name).parent_path());
    write_file_atomically(path(name), content);
  }
  static std::function<void(const fs::path&)> one_file(const std::string& content) {
    return [content](const fs::path& fresh) { write_file_atomically(fresh / "file", content); };
  }
  std::size_t entries() const {
    return static_cast<std::size_t>(
        std::distance(fs::directory_iterator(folder_.path()), fs::directory_iterator()));
  }

  TemporaryFolder folder_;
};

TEST_F(PublishFolder, ReplacesAFolderOrRefusesTo) {
  publish_folder(path("a"), one_file("first"));
  publish_folder(path("a"), one_file("second"));
  EXPECT_EQ(read_file(path("a/file")), "second");
  EXPECT_THAT(error_of([&] { publish_folder(path("a"), one_file("third"), OldFolder::kRefuse); }),
              HasSubstr("can't be written: File exists"));
  EXPECT_EQ(read_file(path("a/file")), "second");
  publish_folder(path("b"), one_file("new"), OldFolder::kRefuse);
  EXPECT_EQ(read_file(path("b/file")), "new");
  EXPECT_EQ(entries(), 2u) << "something was left behind";
}

TEST_F(PublishFolder, OneThatHasComeMeanwhileIsNotReplaced) {
  EXPECT_THAT(error_of([&] {
                publish_folder(
                    path("a"),
                    [&](const fs::path& fresh) {
                      write_file_atomically(fresh / "file", "ours");
                      write("a/file", "of somebody else");
                    },
                    OldFolder::kRefuse);
              }),
              HasSubstr("can't be written"));
  EXPECT_EQ(read_file(path("a/file")), "of somebody else");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(PublishFolder, ALinkToAFolderStays) {
  write("disk/folder/file", "old");
  fs::create_directory_symlink("disk/folder", path("link"));
  publish_folder(path("link"), one_file("new"));
  EXPECT_TRUE(fs::is_symlink(path("link")));
  EXPECT_EQ(read_file(path("disk/folder/file")), "new");
  EXPECT_EQ(entries(), 2u);
}

TEST_F(PublishFolder, NothingIsLeftBehindWhereWritingFails) {
  write("a/file", "old");
  EXPECT_THROW(publish_folder(path("a"), [](const fs::path&) { throw std::runtime_error("x"); }),
               std::runtime_error);
  EXPECT_EQ(read_file(path("a/file")), "old");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(PublishFolder, ASecondWriterIsRefusedAndDisturbsNothing) {
  std::string refused;
  publish_folder(path("a"), [&](const fs::path& fresh) {
    write_file_atomically(fresh / "file", "first");
    refused = error_of([&] { publish_folder(path("a"), one_file("second")); });
  });
  EXPECT_THAT(refused, HasSubstr(path("a").string()));
  EXPECT_THAT(refused, HasSubstr("another process"));
  EXPECT_EQ(read_file(path("a/file")), "first");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(PublishFolder, ClearsWhatAKilledProcessLeft) {
  write(".writing-a/inside/file", "half");
  write(".writing-a/half", "half");
  publish_folder(path("a"), one_file("whole"));
  EXPECT_EQ(std::distance(fs::directory_iterator(path("a")), fs::directory_iterator()), 1);
  EXPECT_EQ(entries(), 1u);
}

}  // namespace
}  // namespace tessera
