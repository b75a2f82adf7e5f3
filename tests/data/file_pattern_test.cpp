#include "data/file_pattern.h"

#include <gmock/gmock.h>

#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(FilePattern, ExpandsRangesWithTheirPadding) {
  EXPECT_THAT(expand_braces("a-{0008..0011}.tar"),
              ElementsAre("a-0008.tar", "a-0009.tar", "a-0010.tar", "a-0011.tar"));
  EXPECT_THAT(expand_braces("{9..11}"), ElementsAre("9", "10", "11"));
  EXPECT_THAT(expand_braces("{7..7}"), ElementsAre("7"));
}

TEST(FilePattern, ExpandsListsNestedAndSeveral) {
  EXPECT_THAT(expand_braces("{a,b}-{0..1}"), ElementsAre("a-0", "a-1", "b-0", "b-1"));
  EXPECT_THAT(expand_braces("{train-{0..1},val}.tar"), ElementsAre("train-0.tar", "train-1.tar", "val.tar"));
  EXPECT_THAT(expand_braces("x{,y}"), ElementsAre("x", "xy"));
  EXPECT_THAT(expand_braces("plain.tar"), ElementsAre("plain.tar"));
}

TEST(FilePattern, RefusesWhatIsNoPattern) {
  for (const char* pattern : {"a{0..3", "a}0{", "{abc}", "{}", "{3..1}", "{0..1000000}", "{0..999}{0..9999}",
                              "{0..x}", "{0..99999999999999999999}"}) {
    EXPECT_THAT(error_of([&] { expand_braces(pattern); }), HasSubstr(pattern));
  }
}

TEST(FilePattern, ABackslashMakesABracePartOfAName) {
  EXPECT_THAT(expand_braces("br\\{1\\}/s-{0..1}"), ElementsAre("br{1}/s-0", "br{1}/s-1"));
  EXPECT_THAT(expand_braces("{a\\,b,c\\}}"), ElementsAre("a,b", "c}"));
  EXPECT_THAT(expand_braces("a\\\\{0..1}"), ElementsAre("a\\0", "a\\1"));
  EXPECT_THAT(expand_braces("a\\b"), ElementsAre("a\\b")) << "before other letters it is one itself";
  EXPECT_THAT(error_of([] { expand_braces("br{1}/s"); }), HasSubstr("has a backslash in front"));
}

TEST(FilePattern, WhatIsThereUnderAPatternsNameIsMeantByIt) {
  const TemporaryFolder folder;
  const auto names = [&](const std::string& pattern) {
    std::vector<std::string> found;
    for (const auto& path : expand_patterns({folder.file(pattern)}))
      found.push_back(path.lexically_relative(folder.path()).string());
    return found;
  };
  for (const std::string inside : {"br{1}", "open{", "},{", "{a,b}", "a"}) {
    std::filesystem::create_directories(folder.path() / inside);
    for (const char* name : {"s-0.tar", "s-1.tar", "t{0..1}.tar", "t\\,.tar"})
      write_bytes(folder.file(inside + "/" + name), "x");
    EXPECT_THAT(names(inside + "/s-{0..1}.tar"), ElementsAre(inside + "/s-0.tar", inside + "/s-1.tar"));
    EXPECT_THAT(names(inside + "/t{0..1}.tar"), ElementsAre(inside + "/t{0..1}.tar"));
    EXPECT_THAT(names(inside + "/t\\,.tar"), ElementsAre(inside + "/t\\,.tar"));
  }
  EXPECT_THAT(names("br\\{1\\}/s-{0..1}.tar"), ElementsAre("br{1}/s-0.tar", "br{1}/s-1.tar"));
  // Braces that hold a '/', where no folder is called so.
  EXPECT_THAT(names("{a/s-0,br\\{1\\}/s-1}.tar"), ElementsAre("a/s-0.tar", "br{1}/s-1.tar"));
  EXPECT_THAT(error_of([&] { names("gone{1}/s-0.tar"); }), HasSubstr("has a backslash in front"));
}

TEST(FilePattern, NamesTheFileThatIsMissingOrTwice) {
  const TemporaryFolder folder;
  write_bytes(folder.file("s-0.tar"), "x");
  EXPECT_EQ(expand_patterns({folder.file("s-{0..0}.tar")}).size(), 1u);
  EXPECT_THAT(error_of([&] { expand_patterns({folder.file("s-{0..1}.tar")}); }), HasSubstr("s-1.tar"));
  EXPECT_THAT(expand_patterns({folder.path().string()}), ElementsAre(folder.path()));
  EXPECT_THAT(error_of([] { expand_patterns({"/dev/null"}); }), HasSubstr("'/dev/null': expected a file"));
  EXPECT_THAT(error_of([&] {
                expand_patterns({folder.file("s-0.tar"), folder.file("./s-0.tar")});
              }),
              HasSubstr("twice"));
}

}  // namespace
}  // namespace tessera::data
