#include "core/text_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files.h"
#include "core/json_file.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const std::string kUtf8Mark = "\xef\xbb\xbf";
const std::string kPointerText =
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 346345912\n";
const std::string kPageText = "\n<!DOCTYPE HTML>\n<html><head><title>Sign in</title></head></html>\n";

class TextFile : public ::testing::Test {
 protected:
  fs::path file(const std::string& content, const std::string& name = "file.txt") const {
    write_file_atomically(folder_.path() / name, content);
    return folder_.path() / name;
  }
  /// `text` in ASCII as UTF-16 has it.
  static std::string wide(const std::string& text, bool big_end_first) {
    std::string result;
    for (const char c : text) result += big_end_first ? std::string{'\0', c} : std::string{c, '\0'};
    return result;
  }

 private:
  TemporaryFolder folder_;
};

TEST_F(TextFile, LinesOfEverySystemAreTheSame) {
  for (const std::string content : {"one\n\ntwo\n", "one\n\ntwo", "one\r\n\r\ntwo\r\n", "one\r\n\r\ntwo"}) {
    EXPECT_THAT(read_lines(file(content)), ElementsAre("one", "", "two"));
    EXPECT_THAT(read_lines(file(kUtf8Mark + content)), ElementsAre("one", "", "two"));
  }
  EXPECT_THAT(read_lines(file("")), IsEmpty());
  EXPECT_THAT(read_lines(file(kUtf8Mark)), IsEmpty());
  EXPECT_THAT(read_lines(file("\n")), ElementsAre(""));
  EXPECT_THAT(read_lines(file("a\rb\r\r\n\n\n")), ElementsAre("a\rb\r", "", ""));
  EXPECT_THAT(read_lines(file("a\n" + kUtf8Mark + "b")), ElementsAre("a", kUtf8Mark + "b"))
      << "one mark, at the beginning";
}

TEST_F(TextFile, BytesOfOtherEncodingsThatNamesMayHaveStay) {
  EXPECT_THAT(read_lines(file("caf\xe9.png\n")), ElementsAre("caf\xe9.png"));
}

TEST_F(TextFile, OtherUnicodeIsNamed) {
  const std::string text = "a picture\nb picture\n";
  for (const bool big : {false, true}) {
    const std::string mark = big ? "\xfe\xff" : "\xff\xfe";
    for (const std::string& content : {mark + wide(text, big), wide(text, big)}) {
      EXPECT_THAT(error_of([&] { read_lines(file(content)); }),
                  AllOf(HasSubstr("file.txt: is UTF-16 text"), HasSubstr("iconv -f UTF-16 -t UTF-8")));
    }
  }
  EXPECT_THAT(error_of([&] { read_lines(file(std::string("\xff\xfe\0\0a\0\0\0", 8))); }),
              HasSubstr("UTF-32"));
}

TEST_F(TextFile, WhatIsNoTextIsNamed) {
  EXPECT_THAT(error_of([&] { read_lines(file(kPointerText)); }),
              AllOf(HasSubstr("file.txt"), HasSubstr("git lfs pull")));
  EXPECT_THAT(error_of([&] { read_lines(file(kPageText)); }),
              AllOf(HasSubstr("file.txt"), HasSubstr("web page")));
  EXPECT_THAT(error_of([&] { read_lines(file(std::string("\x1f\x8b\x08\0\0\0\0\0\0\3abcdef", 16))); }),
              HasSubstr("gzip"));
  EXPECT_THAT(error_of([&] { read_lines(file(std::string("abc\ndef\0ghi", 11))); }),
              HasSubstr("byte 7 is zero"));
  EXPECT_THAT(error_of([&] { read_lines(file(std::string(4096, '\0'))); }), HasSubstr("begins with zeros"));
}

TEST_F(TextFile, JsonIsReadTheSameWay) {
  EXPECT_EQ(read_json_file(file(kUtf8Mark + "{\"a\": 1}\r\n")).at("a"), 1);
  EXPECT_THAT(error_of([&] { read_json_file(file(kPointerText)); }), HasSubstr("git lfs pull"));
  EXPECT_THAT(error_of([&] { read_json_file(file(kPageText)); }),
              AllOf(HasSubstr("file.txt"), HasSubstr("web page")));
  EXPECT_THAT(error_of([&] { read_json_file(file("")); }), HasSubstr("empty file"));
  EXPECT_THAT(error_of([&] { read_json_file(file("\xff\xfe{\0}\0")); }), HasSubstr("file.txt"));
  EXPECT_THAT(error_of([&] { read_json_file(file("{\"a\": 1")); }), HasSubstr("not valid JSON"));
}

}  // namespace
}  // namespace tessera
