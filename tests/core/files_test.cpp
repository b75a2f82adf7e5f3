#include "core/files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>

#include "core/error.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

class Files : public ::testing::Test {
 protected:
  std::filesystem::path path(const std::string& name) const { return folder_.path() / name; }
  std::size_t entries() const {
    const std::filesystem::directory_iterator begin(folder_.path());
    return static_cast<std::size_t>(std::distance(begin, std::filesystem::directory_iterator()));
  }
  TemporaryFolder folder_;
};

template <typename Action>
void expect_error_naming(const std::filesystem::path& path, Action action) {
  try {
    action();
    ADD_FAILURE() << "no error; expected one that names " << path;
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr(path.string()));
  }
}

TEST_F(Files, WriteThenReadGivesTheSameBytes) {
  for (const std::size_t size :
       {std::size_t{0}, std::size_t{1}, std::size_t{1} << 20, (std::size_t{1} << 20) + 7}) {
    std::string content(size, '\0');
    for (std::size_t i = 0; i < size; ++i) {
      content[i] = static_cast<char>(i * 31);
    }
    write_file_atomically(path("a"), content);
    EXPECT_EQ(read_file(path("a")), content);
  }
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, ComplaintsNameTheFile) {
  expect_error_naming(path("absent"), [&] { read_file(path("absent")); });
  expect_error_naming(path("absent"), [&] { file_hash(path("absent")); });
  expect_error_naming(path("absent"), [&] { sync_to_disk(path("absent")); });
  expect_error_naming(path("no") / "folder", [&] { write_file_atomically(path("no") / "folder", "x"); });
  expect_error_naming(folder_.path(), [&] { read_file(folder_.path()); });
  std::filesystem::create_directory(path("taken"));
  expect_error_naming(path("taken"), [&] { write_file_atomically(path("taken"), "x"); });
  EXPECT_EQ(entries(), 1u) << "a temporary file was left behind";
}

TEST_F(Files, WithoutCommitTheOldFileStaysAndNothingIsLeftBehind) {
  write_file_atomically(path("a"), "old");
  {
    AtomicFile file(path("a"));
    file.write("half of the new");
    EXPECT_EQ(read_file(path("a")), "old");
    EXPECT_EQ(entries(), 2u);
  }
  EXPECT_EQ(read_file(path("a")), "old");
  EXPECT_EQ(entries(), 1u);
}

TEST_F(Files, LinksAreFollowedAndWhatIsNoFileIsLeftAlone) {
  write_file_atomically(path("file"), "old");
  std::filesystem::create_symlink("file", path("link"));
  write_file_atomically(path("link"), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(path("link")));
  EXPECT_EQ(read_file(path("file")), "new");
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  expect_error_naming(path("pipe"), [&] { write_file_atomically(path("pipe"), "x"); });
  EXPECT_TRUE(std::filesystem::is_fifo(path("pipe")));
  EXPECT_EQ(entries(), 3u);
}

TEST_F(Files, TwoWritersOfOneFileDoNotDisturbEachOther) {
  AtomicFile first(path("a"));
  AtomicFile second(path("a"));
  first.write("first");
  second.write("second");
  first.commit();
  EXPECT_EQ(read_file(path("a")), "first");
  second.commit();
  EXPECT_EQ(read_file(path("a")), "second");
}

TEST_F(Files, SyncsFilesAndFolders) {
  write_file_atomically(path("a"), "x");
  EXPECT_NO_THROW(sync_to_disk(path("a")));
  EXPECT_NO_THROW(sync_to_disk(folder_.path()));
}

// The examples of FIPS 180 (one block, two blocks, a million letters), and lengths around a block's end.
TEST_F(Files, HashIsSha1) {
  const auto hash_of = [&](const std::string& content) {
    std::ofstream(path("a"), std::ios::binary | std::ios::trunc) << content;
    return file_hash(path("a"));
  };
  EXPECT_EQ(hash_of(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
  EXPECT_EQ(hash_of("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
  EXPECT_EQ(hash_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
  EXPECT_EQ(hash_of(std::string(1000000, 'a')), "34aa973cd4c4daa4f61eeb2bdbad27316534016f");
  EXPECT_EQ(hash_of(std::string(55, 'a')), "c1c8bbdc22796e28c0e15163d20899b65621d65a");
  EXPECT_EQ(hash_of(std::string(64, 'a')), "0098ba824b5c16427bd7a1122a5a442a25ec644d");
}

}  // namespace
}  // namespace tessera
