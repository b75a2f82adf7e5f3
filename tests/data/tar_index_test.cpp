#include "data/tar_index.h"

#include <archive.h>
#include <archive_entry.h>
#include <gmock/gmock.h>

#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::size_t kBlockSize = 512;

TarIndex index_of(const TemporaryFolder& folder, const std::string& bytes) {
  write_bytes(folder.file("x.tar"), bytes);
  return index_tar(MappedFile(std::filesystem::path(folder.file("x.tar"))));
}

std::string tar_of(const TemporaryFolder& folder, const Members& members) {
  return read_bytes(write_tar(folder.file("part.tar"), members));
}

std::vector<std::string> contents(const TarIndex& index, const std::string& bytes) {
  std::vector<std::string> texts;
  for (const TarMember& member : index.members)
    texts.push_back(member.name + "=" + bytes.substr(member.offset, member.size));
  return texts;
}

TEST(TarIndex, ReadsArchivesThatWereJoined) {
  const TemporaryFolder folder;
  const std::string one = tar_of(folder, {{"a", "1"}, {"b", ""}});
  const std::string two = tar_of(folder, {{"c", std::string(600, '3')}});
  const std::string without_end = one.substr(0, 3 * kBlockSize);
  const std::string padding(3 * kBlockSize, '\0');
  for (const std::string& bytes :
       {one + two, one + padding + two, one + two + padding, one + two + std::string(100, '\0')}) {
    const TarIndex index = index_of(folder, bytes);
    EXPECT_THAT(contents(index, bytes), ElementsAre("a=1", "b=", "c=" + std::string(600, '3')));
    EXPECT_EQ(index.members[1].archive, 0u);
    EXPECT_EQ(index.members[2].archive, 1u);
    EXPECT_TRUE(index.breaks.empty()) << index.breaks.front().what;
  }
  // Nothing says where the first ended: it is one archive.
  const TarIndex index = index_of(folder, without_end + two);
  EXPECT_EQ(index.members.size(), 3u);
  EXPECT_EQ(index.members[2].archive, 0u);
}

TEST(TarIndex, SaysHowMuchIsNoTar) {
  const TemporaryFolder folder;
  const std::string one = tar_of(folder, {{"a", "1"}});
  const std::string two = tar_of(folder, {{"b", "2"}});
  const std::string garbage(700, '#');
  struct Case {
    std::string bytes;
    std::size_t offset;
    std::size_t left_out;
    std::size_t members;
  };
  const Case cases[] = {
      {one + garbage, one.size(), garbage.size(), 1},
      {one + "hello", one.size(), 5, 1},
      {one + std::string(2 * kBlockSize, '#') + two, one.size(), 2 * kBlockSize, 2},
      // Not in whole blocks: what follows can't be found again.
      {one + garbage + two, one.size(), garbage.size() + two.size(), 1},
      {one + two.substr(0, kBlockSize / 2), one.size(), kBlockSize / 2, 1},
  };
  for (const Case& file : cases) {
    const TarIndex index = index_of(folder, file.bytes);
    EXPECT_EQ(index.members.size(), file.members);
    ASSERT_EQ(index.breaks.size(), 1u);
    EXPECT_EQ(index.breaks[0].offset, file.offset);
    EXPECT_EQ(index.breaks[0].left_out, file.left_out);
    EXPECT_THAT(index.breaks[0].what, HasSubstr("no tar after an archive's end"));
  }
  const TarIndex cut = index_of(folder, one.substr(0, kBlockSize) + std::string(kBlockSize, '#') + two);
  EXPECT_EQ(cut.members.size(), 2u) << "its content may be anything";
}

/// Longer than a plain header holds.
std::string long_name() { return fmt::format("{:n>200}.jpg", ""); }

/// A tar with entries that hold no content.
std::string tar_with_links(const std::string& path) {
  archive* writer = archive_write_new();
  archive_write_set_format_pax_restricted(writer);
  EXPECT_EQ(archive_write_open_filename(writer, path.c_str()), ARCHIVE_OK);
  const auto add = [&](const std::string& name, unsigned type, const std::string& content,
                       const std::string& hard, const std::string& symbolic) {
    archive_entry* entry = archive_entry_new();
    archive_entry_set_pathname(entry, name.c_str());
    archive_entry_set_filetype(entry, type);
    archive_entry_set_size(entry, static_cast<la_int64_t>(content.size()));
    archive_entry_set_perm(entry, 0644);
    if (!hard.empty()) archive_entry_set_hardlink(entry, hard.c_str());
    if (!symbolic.empty()) archive_entry_set_symlink(entry, symbolic.c_str());
    EXPECT_EQ(archive_write_header(writer, entry), ARCHIVE_OK);
    archive_write_data(writer, content.data(), content.size());
    archive_entry_free(entry);
  };
  add("folder/", AE_IFDIR, "", "", "");
  add(long_name(), AE_IFREG, "picture", "", "");
  add("same.jpg", AE_IFREG, "", long_name(), "");
  add("symbolic.jpg", AE_IFLNK, "", "", long_name());
  add("./folder/up.jpg", AE_IFLNK, "", "", "../same.jpg");
  add("later.jpg", AE_IFLNK, "", "", "last.txt");
  add("pipe.jpg", AE_IFIFO, "", "", "");
  add("elsewhere.jpg", AE_IFREG, "", "not-in-this-tar.jpg", "");
  add("last.txt", AE_IFREG, "text", "", "");
  archive_write_close(writer);
  archive_write_free(writer);
  return read_bytes(path);
}

TEST(TarIndex, ALinkIsTheMemberThatItNames) {
  const TemporaryFolder folder;
  const std::string bytes = tar_with_links(folder.file("links.tar"));
  const TarIndex index = index_of(folder, bytes);
  EXPECT_THAT(contents(index, bytes),
              ElementsAre(long_name() + "=picture", "same.jpg=picture", "symbolic.jpg=picture",
                          "./folder/up.jpg=picture", "last.txt=text"));
  EXPECT_THAT(index.links, ElementsAre("later.jpg", "elsewhere.jpg"));
  EXPECT_THAT(index.specials, ElementsAre("pipe.jpg"));
  EXPECT_TRUE(index.breaks.empty());
}

}  // namespace
}  // namespace tessera::data
