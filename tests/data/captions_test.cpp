#include "data/captions.h"

#include <gmock/gmock.h>

#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(Captions, WhatIsNullIsNotThere) {
  for (const char* text : {R"({"caption": null})", R"({"captions": null})", R"({"captions": [null, null]})",
                           R"({"caption": null, "captions": []})", R"({"caption": "", "captions": null})",
                           R"({"captions": null, "image_id": null})"}) {
    const CaptionRecord record = captions_from_json(text, "name");
    EXPECT_THAT(record.captions, IsEmpty()) << text;
    EXPECT_EQ(record.unusable, "") << text;
    EXPECT_EQ(record.image_id, "") << text;
  }
  EXPECT_THAT(captions_from_json(R"({"captions": [null, "a", null, " b "]})", "name").captions,
              ElementsAre("a", "b"));
  EXPECT_THAT(captions_from_json(R"({"captions": null, "caption": "a"})", "name").captions, ElementsAre("a"));
  EXPECT_THAT(captions_from_json(R"({"captions": ["", null], "caption": "a"})", "name").captions,
              ElementsAre("a"));
  EXPECT_THAT(captions_from_json(R"({"captions": ["a"], "caption": null})", "name").captions,
              ElementsAre("a"));
}

TEST(Captions, ACaptionOfAnotherTypeIsSaid) {
  const auto unusable = [](const char* text) {
    const CaptionRecord record = captions_from_json(text, "name");
    EXPECT_THAT(record.captions, IsEmpty()) << text;
    return record.unusable;
  };
  EXPECT_EQ(unusable(R"({"caption": 5})"), "name: 'caption': expected a string, found number");
  EXPECT_EQ(unusable(R"({"caption": ["a"]})"), "name: 'caption': expected a string, found array");
  EXPECT_EQ(unusable(R"({"captions": "a"})"), "name: 'captions': expected a list of strings, found string");
  EXPECT_EQ(unusable(R"({"captions": ["a", 5]})"), "name: 'captions': expected strings, found number");
}

TEST(Captions, AnImageIdMayHaveBecomeAFloat) {
  const auto id_of = [](const std::string& id) {
    return captions_from_json(R"({"caption": "a", "image_id": )" + id + "}", "name").image_id;
  };
  EXPECT_EQ(id_of("12"), "12");
  EXPECT_EQ(id_of("12.0"), "12");
  EXPECT_EQ(id_of("1.2e1"), "12");
  EXPECT_EQ(id_of("-0.0"), "0");
  EXPECT_EQ(id_of("-3.0"), "-3");
  EXPECT_EQ(id_of("9007199254740991.0"), "9007199254740991");
  EXPECT_EQ(id_of("12345678901234567890"), "12345678901234567890");
  EXPECT_EQ(id_of("\"12.0\""), "12.0");
  EXPECT_EQ(id_of("null"), "");
  for (const char* id : {"1.5", "true", "[1]", "{}"}) {
    EXPECT_THAT(error_of([&] { id_of(id); }), HasSubstr("name: 'image_id': expected a string or an integer"));
  }
  EXPECT_THAT(error_of([&] { id_of("9007199254740992.0"); }), HasSubstr("too large to be exact"));
  EXPECT_THAT(error_of([&] { id_of("1e300"); }), HasSubstr("too large to be exact"));
}

}  // namespace
}  // namespace tessera::data
