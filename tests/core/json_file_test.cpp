#include "core/json_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "core/files.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;
using testing::AllOf;
using testing::HasSubstr;

TEST(ParseJson, TakesWhatPythonWritesForNumbersThatAreNotFinite) {
  const json read = parse_json(R"({"b": null, "similarity": NaN, "a": [Infinity, -Infinity, null, -1.5e3],
                                   "c": {"deep": [[NaN]]}, "caption": "a dog"})",
                               "text");
  EXPECT_TRUE(std::isnan(read.at("similarity").get<double>()));
  EXPECT_EQ(read.at("a")[0].get<double>(), HUGE_VAL);
  EXPECT_EQ(read.at("a")[1].get<double>(), -HUGE_VAL);
  EXPECT_TRUE(read.at("a")[2].is_null());
  EXPECT_EQ(read.at("a")[3], -1500);
  EXPECT_TRUE(read.at("b").is_null());
  EXPECT_TRUE(std::isnan(read.at("c").at("deep")[0][0].get<double>()));
  EXPECT_EQ(read.at("caption"), "a dog");
  EXPECT_TRUE(std::isnan(parse_json("NaN", "text").get<double>()));
}

TEST(ParseJson, LeavesStringsAsTheyAre) {
  const std::string text =
      R"({"NaN": "NaN", "null": "\"NaN, Infinity\\", "x": NaN, "\\": "-Infinity \\\" null", "y": [null, NaN]})";
  const json read = parse_json(text, "text");
  EXPECT_EQ(read.at("NaN"), "NaN");
  EXPECT_EQ(read.at("null"), "\"NaN, Infinity\\");
  EXPECT_EQ(read.at("\\"), "-Infinity \\\" null");
  EXPECT_TRUE(std::isnan(read.at("x").get<double>()));
  EXPECT_TRUE(read.at("y")[0].is_null());
  EXPECT_TRUE(std::isnan(read.at("y")[1].get<double>()));
}

TEST(ParseJson, KeepsTheOrderOfFields) {
  const ordered_json read = parse_json<ordered_json>(R"({"z": NaN, "a": 1, "m": null})", "text");
  std::vector<std::string> keys;
  for (const auto& [key, value] : read.items()) keys.push_back(key);
  EXPECT_EQ(keys, (std::vector<std::string>{"z", "a", "m"}));
}

TEST(ParseJson, RefusesAllElseByName) {
  for (const char* text :
       {"", "{", "{\"a\": nan}", "{\"a\": NAN}", "{\"a\": -NaN}", "{\"a\": +Infinity}", "{\"a\": 1NaN}",
        "{\"a\": NaNNaN}", "{\"a\": xNaN}", "{\"a\": Infinityx}", "{\"a\": --Infinity}", "{NaN: 1}", "[NaN",
        "\"NaN", "[NaN, \"\xff\"]", "[\"\\", "nullNaN", "[1e999]", "{\"a\": NaN} x"}) {
    EXPECT_THAT(error_of([&] { parse_json(text, "there/file.json"); }),
                HasSubstr("there/file.json: not valid JSON"))
        << text;
  }
}

TEST(ParseJson, IsNestedOnlySoDeep) {
  const auto nested = [](std::size_t depth, const std::string& inner) {
    return std::string(depth, '[') + inner + std::string(depth, ']');
  };
  EXPECT_EQ(parse_json(nested(256, "\"[[\\\"[\""), "x").dump().size(), 2 * 256 + 7u);
  EXPECT_THAT(error_of([&] { parse_json(nested(257, ""), "there/file.json"); }),
              HasSubstr("there/file.json: not usable JSON: nested more than 256 deep"));
  EXPECT_THAT(error_of([&] { parse_json(std::string(1 << 22, '{'), "x"); }), HasSubstr("256 deep"));
}

TEST(ReadJsonFile, NamesItsFile) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "config.json";
  write_file_atomically(path, "\xef\xbb\xbf{\"a\": NaN}");
  EXPECT_TRUE(std::isnan(read_json_file(path).at("a").get<double>()));
  write_file_atomically(path, "{\"a\": }");
  EXPECT_THAT(error_of([&] { read_json_file(path); }), AllOf(HasSubstr(path.string()), HasSubstr("line 1")));
  EXPECT_THAT(error_of([&] { read_json_file(folder.path() / "none"); }), HasSubstr("none"));
}

TEST(JsonText, IsWhatStoodInTheFile) {
  for (const char* text : {R"([NaN,Infinity,-Infinity,null,1.5,"NaN"])", R"({"a":{"b":[NaN,{}]},"c":[]})",
                           "NaN", "3", "true", "\"x\\n\""})
    EXPECT_EQ(json_text(parse_json<ordered_json>(text, "text")), text);
}

TEST(IsMissing, SaysSoOfNullAndNaNAlone) {
  EXPECT_TRUE(is_missing(json()));
  EXPECT_TRUE(is_missing(json(std::nan(""))));
  for (const json& value : {json(0), json(HUGE_VAL), json(""), json(false), json::array()})
    EXPECT_FALSE(is_missing(value)) << value;
}

}  // namespace
}  // namespace tessera
