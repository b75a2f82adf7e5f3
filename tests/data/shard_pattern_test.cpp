#include "data/shard_pattern.h"

#include <gmock/gmock.h>

#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

TEST(ShardPattern, ExpandsRangesWithTheirPadding) {
  EXPECT_THAT(expand_braces("a-{0008..0011}.tar"),
              ElementsAre("a-0008.tar", "a-0009.tar", "a-0010.tar", "a-0011.tar"));
  EXPECT_THAT(expand_braces("{9..11}"), ElementsAre("9", "10", "11"));
  EXPECT_THAT(expand_braces("{7..7}"), ElementsAre("7"));
}

TEST(ShardPattern, ExpandsListsNestedAndSeveral) {
  EXPECT_THAT(expand_braces("{a,b}-{0..1}"), ElementsAre("a-0", "a-1", "b-0", "b-1"));
  EXPECT_THAT(expand_braces("{train-{0..1},val}.tar"), ElementsAre("train-0.tar", "train-1.tar", "val.tar"));
  EXPECT_THAT(expand_braces("x{,y}"), ElementsAre("x", "xy"));
  EXPECT_THAT(expand_braces("plain.tar"), ElementsAre("plain.tar"));
}

TEST(ShardPattern, RefusesWhatIsNoPattern) {
  for (const char* pattern : {"a{0..3", "a}0{", "{abc}", "{}", "{3..1}", "{0..1000000}", "{0..999}{0..9999}",
                              "{0..x}", "{0..99999999999999999999}"}) {
    EXPECT_THAT(error_of([&] { expand_braces(pattern); }), HasSubstr(pattern));
  }
}

TEST(ShardPattern, NamesTheFileThatIsMissingOrTwice) {
  const TemporaryFolder folder;
  testing::write_bytes(folder.file("s-0.tar"), "x");
  EXPECT_EQ(expand_shards({folder.file("s-{0..0}.tar")}).size(), 1u);
  EXPECT_THAT(error_of([&] { expand_shards({folder.file("s-{0..1}.tar")}); }), HasSubstr("s-1.tar"));
  EXPECT_THAT(error_of([&] { expand_shards({folder.path().string()}); }), HasSubstr(folder.path().string()));
  EXPECT_THAT(error_of([&] {
                expand_shards({folder.file("s-0.tar"), folder.file("./s-0.tar")});
              }),
              HasSubstr("twice"));
}

}  // namespace
}  // namespace tessera::data
