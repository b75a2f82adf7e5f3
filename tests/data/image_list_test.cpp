#include "data/image_list.h"

#include <gmock/gmock.h>

#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<std::string> names_of(const ImageList& list, const TemporaryFolder& folder) {
  std::vector<std::string> names;
  for (std::int64_t i = 0; i < list.size(); ++i)
    names.push_back(list.name(i).substr(folder.path().string().size() + 1));
  return names;
}

TEST(ImageList, PassesOverWhatProgramsPutThere) {
  const TemporaryFolder folder;
  for (const char* name : {"deeper/.ipynb_checkpoints", "__MACOSX"})
    fs::create_directories(folder.path() / name);
  for (const char* name :
       {"a.png", "._a.png", ".DS_Store", "deeper/b.JPG", "deeper/.ipynb_checkpoints/b-checkpoint.jpg",
        "__MACOSX/c.png", "notes.txt", "d.gif"}) {
    write_bytes(folder.file(name), "x");
  }
  fs::create_symlink("deeper", folder.file("link"));
  fs::create_symlink("nowhere", folder.file("gone.png"));
  const ImageList list = ImageList::open({folder.path().string()});
  EXPECT_THAT(names_of(list, folder), ElementsAre("a.png", "deeper/b.JPG"));
  EXPECT_THAT(list.left_out(), HasSubstr("4 hidden (such as '"));
  EXPECT_THAT(list.left_out(), HasSubstr("1 links to folders (such as '"));
  EXPECT_THAT(list.left_out(), HasSubstr("1 links that lead nowhere (such as '"));
  EXPECT_THAT(list.left_out(), HasSubstr("2 of other kinds (.gif 1, .txt 1)"));
  // What is named itself is taken, and so is what lies below a hidden folder that is.
  EXPECT_EQ(ImageList::open({folder.file("._a.png")}).size(), 1);
  EXPECT_THAT(names_of(ImageList::open({folder.file("deeper/.ipynb_checkpoints")}), folder),
              ElementsAre("deeper/.ipynb_checkpoints/b-checkpoint.jpg"));
}

TEST(ImageList, TheSameInATar) {
  const TemporaryFolder folder;
  const std::string tar = write_tar(folder.file("a.tar"), {{"x.png", "one"},
                                                           {"._x.png", "hidden"},
                                                           {"__MACOSX/._x.png", "hidden"},
                                                           {".ipynb_checkpoints/x.png", "hidden"},
                                                           {"./y v1.7.webp", "two"},
                                                           {"y.txt", "text"}});
  const ImageList list = ImageList::open({tar});
  EXPECT_THAT(names_of(list, folder), ElementsAre("a.tar/x.png", "a.tar/./y v1.7.webp"));
  EXPECT_THAT(list.left_out(), HasSubstr("3 hidden (such as '"));
  EXPECT_THAT(list.left_out(), HasSubstr("1 of other kinds (.txt 1)"));
  const std::vector<std::byte> bytes = list.read(1);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()), "two");
}

TEST(ImageList, NothingIsLeftOutOfAListOfPictures) {
  const TemporaryFolder folder;
  write_bytes(folder.file("a.png"), "x");
  EXPECT_EQ(ImageList::open({folder.path().string()}).left_out(), "");
}

TEST(ImageList, AFolderOfHiddenFilesAloneSaysSo) {
  const TemporaryFolder folder;
  write_bytes(folder.file("._a.png"), "x");
  EXPECT_THAT(error_of([&] { ImageList::open({folder.path().string()}); }), HasSubstr("it has 1 hidden"));
}

TEST(ImageList, ATarThatShrinksIsAnErrorThatNamesIt) {
  const TemporaryFolder folder;
  const std::string tar = write_tar(folder.file("a.tar"), {{"x.png", std::string(5000, 'x')}});
  const ImageList list = ImageList::open({tar});
  fs::resize_file(tar, 2000);
  EXPECT_THAT(error_of([&] { list.read(0); }), HasSubstr("a.tar: has become shorter"));
}

TEST(ImageList, ReadsJoinedTars) {
  const TemporaryFolder folder;
  const std::string one = read_bytes(write_tar(folder.file("1.tar"), {{"a.png", "one"}}));
  const std::string two = read_bytes(write_tar(folder.file("2.tar"), {{"b.png", "two"}}));
  write_bytes(folder.file("both.tar"), one + two + "###");
  const ImageList list = ImageList::open({folder.file("both.tar")});
  EXPECT_THAT(names_of(list, folder), ElementsAre("both.tar/a.png", "both.tar/b.png"));
  ASSERT_EQ(list.damage().size(), 1u);
  EXPECT_THAT(list.damage()[0], HasSubstr("3 bytes are left out"));
}

}  // namespace
}  // namespace tessera::data
