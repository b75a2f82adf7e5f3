#include "data/caption_table.h"

#include <gmock/gmock.h>
#include <spdlog/sinks/ostream_sink.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

/// A folder with a.jpg … e.jpg and tables of them.
class CaptionTableTest : public ::testing::Test {
 protected:
  CaptionTableTest() {
    for (const char* name : {"a", "b", "c", "d", "e"}) write_bytes(file(std::string(name) + ".jpg"), name);
  }

  std::string file(const std::string& name) const { return folder_.file(name); }

  std::shared_ptr<const CaptionTable> open(const std::string& content, const TableConfig& options = {},
                                           const std::string& name = "captions.csv") {
    write_bytes(file(name), content);
    return CaptionTable::open({file(name)}, options, logger_);
  }

  /// "KEY IMAGE_ID: CAPTION/CAPTION", a sample each.
  std::vector<std::string> samples(const std::string& content, const TableConfig& options = {}) {
    const auto table = open(content, options);
    std::vector<std::string> texts;
    for (std::int64_t i = 0; i < table->size(); ++i) {
      const Sample sample = table->read_captions(i);
      EXPECT_EQ(sample.key, table->key(i));
      std::string text = sample.key + " " + sample.image_id + ":";
      for (const std::string& caption : sample.captions) text += caption + "/";
      texts.push_back(text);
    }
    return texts;
  }

  TemporaryFolder folder_;
  std::ostringstream log_;
  Logger logger_ =
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log_));
};

TEST_F(CaptionTableTest, RowsOfOnePictureAreOneSampleWhereTheFirstStands) {
  const auto table = open("image,caption\nb.jpg,one\na.jpg,\"two, or three\"\n./b.jpg, four \n");
  ASSERT_EQ(table->size(), 2);
  const Sample sample = table->read(0);
  EXPECT_EQ(sample.key, "b.jpg");
  EXPECT_EQ(sample.image_id, "b.jpg");
  EXPECT_EQ(sample.file, file("captions.csv"));
  EXPECT_THAT(sample.captions, ElementsAre("one", "four"));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(sample.image.data()), sample.image.size()), "b");
  EXPECT_THAT(table->read(1).captions, ElementsAre("two, or three"));
  EXPECT_TRUE(table->read_captions(1).image.empty());
  EXPECT_TRUE(table->read_json(0).is_null());
  EXPECT_EQ(table->damage().incomplete_samples, 0);
  EXPECT_THAT(log_.str(),
              HasSubstr("3 captions of 2 pictures; images from 'image', captions from 'caption'"));
}

TEST_F(CaptionTableTest, UsualNamesAreRecognisedInAnyCaseAndPlace) {
  const std::vector<std::string> both = {"a.jpg a.jpg:one/", "b.jpg b.jpg:two/"};
  EXPECT_EQ(samples("a.jpg\tone\nb.jpg\ttwo\n"), both) << "without a header";
  EXPECT_THAT(log_.str(), HasSubstr("without a header"));
  EXPECT_EQ(samples("\xef\xbb\xbfImage;Caption\r\na.jpg;one\r\nb.jpg;two"), both);
  EXPECT_EQ(samples("split,TITLE,filepath\ntrain,one,a.jpg\nval,two,b.jpg\n"), both);
  EXPECT_EQ(samples("image_name| comment_number| comment\na.jpg| 0| one\nb.jpg| 0| two\n"), both);
  EXPECT_EQ(samples("a.jpg#0\tone\nb.jpg#12\ttwo\n"), both) << "as Flickr8k.token.txt has it";
  EXPECT_THAT(samples("image_id,file_name,text\n7,a.jpg,one\n,b.jpg,two\n7,c.jpg,three\n7,a.jpg,four\n"),
              ElementsAre("a.jpg 7:one/four/", "b.jpg b.jpg:two/", "c.jpg 7:three/"));
}

TEST_F(CaptionTableTest, ColumnsMayBeNamed) {
  const std::string table = "caption,words,photo,who\nno,one,a.jpg,x\nno,two,b.jpg,y\nno,three,c.jpg\n";
  EXPECT_THAT(samples(table, {.image = "photo", .caption = "words", .image_id = "who"}),
              ElementsAre("a.jpg x:one/", "b.jpg y:two/", "c.jpg c.jpg:three/"));
  EXPECT_THAT(error_of([&] { open(table, {.image = "photo", .caption = "Words"}); }),
              AllOf(HasSubstr("captions.csv:1: data.table.caption: there is no column 'Words'"),
                    HasSubstr("'caption', 'words', 'photo', 'who'")));
  EXPECT_THAT(error_of([&] { open("x,x,caption\n", {.image = "x"}); }), HasSubstr("several columns"));
  EXPECT_THAT(error_of([&] { open("x,y\n", {.image = "x", .caption = "x"}); }),
              HasSubstr("in one column, 'x'"));
  EXPECT_THAT(error_of([&] { open("photo,words\na.jpg,one\n", {.caption = "words"}); }),
              AllOf(HasSubstr("captions.csv:1: the first row ('photo', 'words') is neither"),
                    HasSubstr("data.table.image")));
}

TEST_F(CaptionTableTest, WhatIsNeitherHeaderNorPictureIsAnError) {
  for (const char* text :
       {"photo,words\na.jpg,one\n", "a.jpg\nb.jpg\n", "caption,image_id\none,7\n", "a.jpg"}) {
    EXPECT_THAT(error_of([&] { open(text); }), HasSubstr("captions.csv:1: the first row ('")) << text;
  }
  EXPECT_THAT(error_of([&] { open("<!DOCTYPE html>\n<html>a.jpg,b</html>"); }), HasSubstr("a web page"));
  EXPECT_THAT(error_of([&] { open(std::string("a.jpg,o\0ne\n", 11)); }), HasSubstr("captions.csv"));
  EXPECT_THAT(error_of([&] { open("\n \n"); }),
              HasSubstr("captions.csv: no picture with a caption among 0 rows"));
  EXPECT_THAT(error_of([&] { open("image,caption\nx.jpg,one\n"); }),
              AllOf(HasSubstr("no picture with a caption among 1 rows; the first: " + file("captions.csv:2")),
                    HasSubstr("there is no picture '" + file("x.jpg") + "'")));
}

TEST_F(CaptionTableTest, PicturesAreRelativeToTheTablesFolderOrToTheNamedOne) {
  std::filesystem::create_directories(folder_.path() / "tables");
  EXPECT_EQ(open("../a.jpg,one\n" + file("b.jpg") + ",two\n", {}, "tables/t.csv")->size(), 2);
  const auto elsewhere = open("a.jpg,one\n", {.folder = folder_.path().string()}, "tables/t.csv");
  EXPECT_EQ(elsewhere->key(0), "a.jpg");
  EXPECT_EQ(elsewhere->read(0).image.size(), 1u);
}

TEST_F(CaptionTableTest, RowsThatAreNoGoodAreCountedAndTheFirstNamedByLine) {
  const auto table = open(
      "image,caption\n"
      "a.jpg,one\n"
      "b.jpg\n"         // 3: too few
      "gone.jpg,two\n"  // 4: not there, once
      "gone.jpg,three\n"
      "a.jpg,  \n"                   // 6: empty
      ",four\n"                      // 7: no path
      "c.jpg,five, six\n"            // 8: too many
      "d.jpg,\xe4\n"                 // 9: no UTF-8
      "e.jpg,seven,\n"               // ends with a separator
      "d.jpg,\"eight, \"nine\"\n");  // 11: quotes
  EXPECT_EQ(table->size(), 2);
  EXPECT_EQ(table->damage().incomplete_samples, 7);
  EXPECT_EQ(table->damage().breaks, 0);
  const std::string place = file("captions.csv");
  EXPECT_THAT(
      table->damage().first_keys,
      ElementsAre(place + ":3: has 1 fields, the first row 2",
                  place + ":4: there is no picture '" + file("gone.jpg") + "'", place + ":6: has no caption",
                  place + ":7: names no picture", HasSubstr(place + ":8: has 3 fields, the first row 2")));
  EXPECT_THAT(log_.str(), AllOf(HasSubstr(":7: names no picture; left out"), HasSubstr("2 more such rows"),
                                Not(HasSubstr(":9:"))));
}

TEST_F(CaptionTableTest, EachKindOfDamageSaysWhatItIs) {
  const auto reason = [&](const std::string& row) {
    return open("image,caption,image_id\na.jpg,one,1\n" + row)->damage();
  };
  EXPECT_THAT(reason("d.jpg,\xe4\n").first_keys, ElementsAre(HasSubstr(":3: its caption is no UTF-8")));
  EXPECT_THAT(reason("d.jpg,x,\xe4\n").first_keys, ElementsAre(HasSubstr(":3: its image_id is no UTF-8")));
  EXPECT_THAT(reason("d.jpg,\"x, \"y\",1,\n").first_keys, ElementsAre(HasSubstr(":3: its quotes")));
  EXPECT_THAT(reason("a.jpg,two,2\n").first_keys,
              ElementsAre(HasSubstr(":3: gives 'a.jpg' the image_id '2', line 2 gave it '1'")));
  EXPECT_EQ(reason("a.jpg,two\n").incomplete_samples, 0);
}

TEST_F(CaptionTableTest, SeveralTablesFollowEachOther) {
  std::filesystem::create_directories(folder_.path() / "more");
  write_bytes(file("more/a.jpg"), "other");
  write_bytes(file("one.csv"), "a.jpg,one\nb.jpg,two\n");
  write_bytes(file("more/two.tsv"), "caption\timage\nthree\ta.jpg\n");
  const auto table = CaptionTable::open({file("one.csv"), file("more/two.tsv")}, {}, logger_);
  ASSERT_EQ(table->size(), 3);
  EXPECT_EQ(table->read(0).image.size(), 1u);
  EXPECT_EQ(table->read(2).image.size(), 5u);
  EXPECT_THAT(log_.str(), HasSubstr("'a.jpg' is a picture of " + file("one.csv") + " and another one"));
}

TEST_F(CaptionTableTest, IsReadBySeveralThreadsAndAPictureThatGoesIsAnError) {
  std::string text;
  for (int i = 0; i < 20; ++i) text += std::string(1, static_cast<char>('a' + i % 5)) + ".jpg,caption\n";
  const auto table = open(text);
  ASSERT_EQ(table->size(), 5);
  std::vector<std::thread> threads;
  std::vector<std::string> found(4);
  for (std::size_t t = 0; t < found.size(); ++t) {
    threads.emplace_back([&, t] {
      for (std::int64_t i = 0; i < 200; ++i) {
        const Sample sample = table->read((i + static_cast<std::int64_t>(t)) % 5);
        found[t] += static_cast<char>(sample.image.front());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(found[0].substr(0, 10), "abcdeabcde");
  EXPECT_EQ(found[3].substr(0, 10), "deabcdeabc");
  std::filesystem::remove(file("c.jpg"));
  EXPECT_THAT(error_of([&] { table->read(2); }), HasSubstr("c.jpg"));
  EXPECT_EQ(table->read(3).key, "d.jpg");
}

TEST_F(CaptionTableTest, BeginsLikeOneWhereTheFirstRowSaysSo) {
  EXPECT_TRUE(begins_like_caption_table("image,caption\n1000268201_693b08cb0e.jpg,A child .\n", {}));
  EXPECT_TRUE(
      begins_like_caption_table("\xef\xbb\xbf"
                                "1000268201_693b08cb0e.jpg#0\tA child .\n",
                                {}));
  EXPECT_TRUE(begins_like_caption_table("x,y\n", {.image = "x", .caption = "y"}));
  EXPECT_FALSE(begins_like_caption_table("x,y\n", {}));
  EXPECT_FALSE(begins_like_caption_table("A child, on stairs\n", {}));
  EXPECT_FALSE(begins_like_caption_table("", {}));
}

}  // namespace
}  // namespace tessera::data
