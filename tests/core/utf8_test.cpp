#include "core/utf8.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/core/error_of.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;

// The boundaries of table 3-7 of the Unicode standard, as Python's bytes.decode("utf-8") judges them.
TEST(Utf8, IsWhatPythonDecodes) {
  for (const char* text :
       {"", "plain", "\x7f", "\xc2\x80", "\xdf\xbf", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xee\x80\x80",
        "\xef\xbb\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf", "caf\xc3\xa9"}) {
    EXPECT_TRUE(is_utf8(text)) << text;
  }
  for (const char* text :
       {"\x80", "\xc1\xbf", "\xc2", "\xc2\x41", "\xe0\x9f\xbf", "\xe0\xa0", "\xed\xa0\x80",
        "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "caf\xe9", "\xe9t\xe9"}) {
    EXPECT_FALSE(is_utf8(text)) << text;
  }
  EXPECT_TRUE(is_utf8(std::string("a\0b", 3)));
}

TEST(Utf8, ComplaintsNameThePlaceAndTheByte) {
  EXPECT_THAT(error_of([] { check_utf8("caf\xe9", "list.txt:3"); }),
              AllOf(HasSubstr("list.txt:3"), HasSubstr("0xe9"), HasSubstr("'caf'"), HasSubstr("iconv")));
  EXPECT_EQ(error_of([] { check_utf8("caf\xc3\xa9", "x"); }), "no error");
}

TEST(Utf8, NamesStayApartAndBecomeUtf8) {
  EXPECT_EQ(as_utf8("50 % caf\xc3\xa9"), "50 % caf\xc3\xa9");
  EXPECT_EQ(as_utf8("50 % caf\xe9"), "50 %25 caf%E9");
  std::set<std::string> names;
  for (const char* name :
       {"caf\xe9", "caf\xe8", "caf\xc3\xa9", "caf\xef\xbf\xbd", "caf%25E9\xe9", "caf%E9\xe9"}) {
    EXPECT_TRUE(is_utf8(as_utf8(name)));
    EXPECT_TRUE(names.insert(as_utf8(name)).second) << name;
  }
}

TEST(Utf8, APathComesBackFromIt) {
  for (const char* path :
       {"relative", "/data/caf\xc3\xa9/100%", "/data/caf\xe9/100%25/\xff", "caf\xe9", "/a%20b\xe9"}) {
    EXPECT_TRUE(is_utf8(path_to_utf8(path)));
    EXPECT_EQ(path_from_utf8(path_to_utf8(path)), fs::path(path));
  }
  EXPECT_EQ(path_to_utf8("/data/caf\xc3\xa9/100%"), "/data/caf\xc3\xa9/100%");
  EXPECT_EQ(path_to_utf8("/data/caf\xe9/b"), "file:///data/caf%E9/b");
  EXPECT_EQ(path_from_utf8("file:///a%zz%4"), fs::path("/a%zz%4"));
}

}  // namespace
}  // namespace tessera
