#include "data/open_source.h"

#include <gmock/gmock.h>
#include <spdlog/sinks/ostream_sink.h>

#include <filesystem>
#include <sstream>

#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class OpenSource : public ::testing::Test {
 protected:
  std::shared_ptr<const Source> open(const std::vector<std::string>& patterns) {
    return open_source(patterns, {}, logger_);
  }
  std::string file(const std::string& name) const { return folder_.file(name); }

  TemporaryFolder folder_;
  std::ostringstream log_;
  Logger logger_ =
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log_));
};

TEST_F(OpenSource, RecognisesShardsByContentAndName) {
  write_tar(file("a-0.tar"), sound_samples(2));
  write_tar(file("a-1.tar"), sound_samples(3));
  EXPECT_EQ(open({file("a-{0..1}.tar")})->size(), 5);
  EXPECT_THAT(log_.str(),
              HasSubstr(file("a-0.tar") + ": WebDataset shards (its content is a tar), and 1 more"));
  std::filesystem::rename(file("a-1.tar"), file("shard"));
  EXPECT_EQ(open({file("shard")})->size(), 3);
  // Named so, and none: whoever reads tars says what the matter is.
  write_bytes(file("page.tar"), "<!DOCTYPE html><html></html>");
  EXPECT_THAT(error_of([&] { open({file("page.tar")}); }), HasSubstr("page.tar"));
  EXPECT_THAT(log_.str(), HasSubstr("its name ends in .tar"));
}

TEST_F(OpenSource, RecognisesTablesByNameAndFirstRow) {
  write_bytes(file("a.jpg"), "x");
  write_bytes(file("a.TSV"), "a.jpg\tone\n");
  write_bytes(file("b.csv"), "photo,words\na.jpg,one\n");
  write_bytes(file("captions.txt"), "image,caption\na.jpg,one\n");
  EXPECT_EQ(open({file("a.TSV")})->read_captions(0).captions.front(), "one");
  EXPECT_THAT(log_.str(), HasSubstr(file("a.TSV") + ": a table of captions (its name ends in .tsv)"));
  DataConfig options;
  options.table.image = "photo";
  options.table.caption = "words";
  EXPECT_EQ(open_source({file("b.csv")}, options, logger_)->size(), 1);
  EXPECT_EQ(open({file("captions.txt")})->size(), 1);
  EXPECT_THAT(log_.str(), HasSubstr("captions.txt: a table of captions (its first row says so)"));
}

TEST_F(OpenSource, AListOfTwoFormsIsAnErrorThatNamesBoth) {
  write_tar(file("a.tar"), sound_samples(2));
  write_bytes(file("b.csv"), "image,caption\n");
  EXPECT_THAT(error_of([&] {
                open({file("a.tar"), file("b.csv")});
              }),
              AllOf(HasSubstr(file("a.tar") + ": WebDataset shards (its content is a tar)"),
                    HasSubstr(file("b.csv") + ": a table of captions")));
}

TEST_F(OpenSource, WhatNoFormRecognisesIsAnErrorThatNamesItAndTheForms) {
  write_bytes(file("a.tar.gz"), "\x1f\x8b compressed");
  const std::string compressed = error_of([&] { open({file("a.tar.gz")}); });
  EXPECT_THAT(compressed, HasSubstr(file("a.tar.gz") +
                                    ": expected images with captions as WebDataset shards (a .tar) or a "));
  EXPECT_THAT(compressed, HasSubstr("found a gzip archive"));
  EXPECT_THAT(error_of([&] { open({folder_.path().string()}); }), HasSubstr("found a folder"));
  write_bytes(file("notes"), "a few words");
  EXPECT_THAT(error_of([&] { open({file("notes")}); }), HasSubstr(file("notes")));
  EXPECT_THAT(error_of([&] { open({file("nothing.tar")}); }), HasSubstr("nothing.tar': no such file"));
  EXPECT_THAT(error_of([&] { open({}); }), HasSubstr("empty"));
}

}  // namespace
}  // namespace tessera::data
