#include "data/webdataset.h"

#include <gmock/gmock.h>
#include <spdlog/sinks/ostream_sink.h>

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

using ::testing::ElementsAre;
using testing::encoded_image;
using testing::error_of;
using ::testing::HasSubstr;
using testing::Members;
using testing::sound_samples;
using testing::TemporaryFolder;
using testing::write_tar;

constexpr std::size_t kTarBlock = 512;

struct Opened {
  std::shared_ptr<const WebDataset> dataset;
  std::string log;
};

Opened open(const std::string& pattern) {
  std::ostringstream log;
  const auto logger =
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log));
  Opened result{WebDataset::open({pattern}, logger), {}};
  logger->flush();
  result.log = log.str();
  return result;
}

TEST(WebDataset, ReadsImagesAndEveryFormOfCaptions) {
  const TemporaryFolder folder;
  const std::string jpeg = encoded_image(".jpg", 1);
  const auto path =
      write_tar(folder.file("a.tar"),
                {{"list.jpg", jpeg},
                 {"list.json", R"({"captions": [" one ", "", "two"], "image_id": 17, "width": 3})"},
                 {"single.PNG", jpeg},
                 {"single.json", R"({"caption": "alone"})"},
                 {"sub/lines.webp", jpeg},
                 {"sub/lines.txt",
                  "\xef\xbb\xbf"
                  "first\r\n\n second \nthird"},
                 {"both.jpeg", jpeg},
                 {"both.txt", "from text"},
                 {"both.json", R"({"image_id": "b"})"},
                 {"ignored.cls", "3"},
                 {"._list.jpg", "resource fork"}});
  const auto [dataset, log] = open(path);
  ASSERT_EQ(dataset->size(), 4);
  EXPECT_EQ(log, "");
  const Sample list = dataset->read(0);
  EXPECT_EQ(list.key, "list");
  EXPECT_EQ(list.shard, path);
  EXPECT_EQ(list.image_id, "17");
  EXPECT_THAT(list.captions, ElementsAre("one", "two"));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(list.image.data()), list.image.size()), jpeg);
  EXPECT_THAT(dataset->read(1).captions, ElementsAre("alone"));
  EXPECT_EQ(dataset->read(1).image_id, "single");
  EXPECT_THAT(dataset->read(2).captions, ElementsAre("first", "second", "third"));
  EXPECT_EQ(dataset->key(2), "sub/lines");
  EXPECT_THAT(dataset->read(3).captions, ElementsAre("from text"));
  EXPECT_EQ(dataset->read(3).image_id, "b");
  EXPECT_THROW(dataset->read(4), c10::Error);
}

TEST(WebDataset, GivesTheWholeRecordOfASample) {
  const TemporaryFolder folder;
  const std::string jpeg = encoded_image(".jpg", 1);
  const auto path =
      write_tar(folder.file("a.tar"), {{"full.jpg", jpeg},
                                       {"full.json", R"({"caption": "one", "scene": {"depth": 2}})"},
                                       {"text.jpg", jpeg},
                                       {"text.txt", "two"},
                                       {"list.jpg", jpeg},
                                       {"list.json", R"(["three"])"}});
  const auto dataset = open(path).dataset;
  EXPECT_EQ(dataset->read_json(0).at("scene").at("depth"), 2);
  EXPECT_TRUE(dataset->read_json(1).is_null());
  EXPECT_THAT(error_of([&] { dataset->read_json(2); }),
              HasSubstr("a.tar: list.json: expected a JSON object, found array"));
  EXPECT_THROW(dataset->read_json(3), c10::Error);
}

TEST(WebDataset, LongNamesAndLargeNumbersOfMembers) {
  const TemporaryFolder folder;
  const std::string longest = std::string(90, 'd') + "/" + std::string(90, 'k');
  Members members = sound_samples(60);
  members.insert(members.begin(), {{longest + ".jpg", encoded_image(".jpg", 1)}, {longest + ".txt", "deep"}});
  const auto [dataset, log] = open(write_tar(folder.file("a.tar"), members));
  ASSERT_EQ(dataset->size(), 61);
  EXPECT_EQ(dataset->key(0), longest);
  EXPECT_EQ(dataset->key(60), "s59");
}

/// Makes the header at `at` a pax extended header and mends its checksum.
void make_pax_header(std::string& tar, std::size_t at) {
  constexpr std::size_t kChecksum = 148, kChecksumSize = 8, kTypeFlag = 156;
  tar[at + kTypeFlag] = 'x';
  tar.replace(at + kChecksum, kChecksumSize, std::string(kChecksumSize, ' '));
  unsigned sum = 0;
  for (std::size_t i = 0; i < kTarBlock; ++i) sum += static_cast<unsigned char>(tar[at + i]);
  tar.replace(at + kChecksum, kChecksumSize - 1, fmt::format("{:06o}", sum) + std::string(1, '\0'));
}

TEST(WebDataset, ReadsNamesOfPaxHeadersInAnyLocale) {
  const TemporaryFolder folder;
  std::string tar = testing::read_bytes(write_tar(
      folder.file("a.tar"), {{"pax", "20 path=größe.jpg\n"}, {"short.jpg", "image"}, {"größe.txt", "grow"}}));
  make_pax_header(tar, 0);
  testing::write_bytes(folder.file("a.tar"), tar);
  const auto [dataset, log] = open(folder.file("a.tar"));
  ASSERT_EQ(dataset->size(), 1);
  EXPECT_EQ(dataset->key(0), "größe");
  EXPECT_EQ(log, "");
}

TEST(WebDataset, LeavesOutIncompleteSamplesAndSaysSo) {
  const TemporaryFolder folder;
  Members members = sound_samples(3);
  members.emplace_back("no-captions.jpg", "x");
  members.emplace_back("no-image.json", "{}");
  members.emplace_back("two.jpg", "x");
  members.emplace_back("two.png", "x");
  members.emplace_back("two.txt", "x");
  const auto [dataset, log] = open(write_tar(folder.file("a.tar"), members));
  EXPECT_EQ(dataset->size(), 3);
  EXPECT_EQ(dataset->damage().incomplete_samples, 3);
  EXPECT_EQ(dataset->damage().tar_breaks, 0);
  for (const char* key : {"no-captions", "no-image", "two"})
    EXPECT_THAT(log, HasSubstr(std::string("a.tar: ") + key));
}

TEST(WebDataset, EveryBrokenCaptionFileIsOneErrorThatNamesIt) {
  const std::pair<const char*, const char*> broken[] = {{"k.json", "{\"captions\": [\"a\""},
                                                        {"k.json", "[1, 2]"},
                                                        {"k.json", R"({"captions": "a string"})"},
                                                        {"k.json", R"({"captions": [1]})"},
                                                        {"k.json", R"({"caption": ["a"]})"},
                                                        {"k.json", R"({"captions": ["", "  "]})"},
                                                        {"k.json", R"({"image_id": "only"})"},
                                                        {"k.json", R"({"caption": "a", "image_id": 1.5})"},
                                                        {"k.json", "{\"caption\": \"\xff\xfe\"}"},
                                                        {"k.txt", "\xff\xfe"},
                                                        {"k.txt", " \n\n"},
                                                        {"k.json", ""}};
  for (const auto& [name, content] : broken) {
    const TemporaryFolder folder;
    const auto [dataset, log] = open(write_tar(folder.file("a.tar"), {{"k.jpg", "x"}, {name, content}}));
    EXPECT_THAT(error_of([&, &dataset = dataset] { dataset->read(0); }), HasSubstr("a.tar: k")) << content;
  }
}

TEST(WebDataset, ATarThatIsNoneIsAnErrorThatNamesIt) {
  const TemporaryFolder folder;
  const std::string sound = testing::read_bytes(write_tar(folder.file("sound.tar"), sound_samples(2)));
  std::string bad_first_header = sound;
  bad_first_header[0] = 'X';
  const std::pair<const char*, std::string> files[] = {{"empty.tar", ""},
                                                       {"text.tar", "this is no tar"},
                                                       {"zeros.tar", std::string(10240, '\0')},
                                                       {"random.tar", encoded_image(".png", 1, 200, 200)},
                                                       {"header.tar", bad_first_header.substr(0, 600)},
                                                       {"short.tar", sound.substr(0, 300)},
                                                       {"gzip.tar", "\x1f\x8b\x08" + std::string(600, '\0')}};
  for (const auto& [name, bytes] : files) {
    testing::write_bytes(folder.file(name), bytes);
    EXPECT_THAT(error_of([&, &name = name] { open(folder.file(name)); }), HasSubstr(name)) << name;
  }
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 20480\n";
  const std::pair<std::string, const char*> stand_ins[] = {
      {pointer, "git lfs pull"},
      {"<!doctype html><title>404</title>" + std::string(2000, ' '), "web page"},
      {"\x1f\x8b\x08" + std::string(600, '\0'), "a gzip archive; unpack it first"}};
  for (const auto& [bytes, says] : stand_ins) {
    testing::write_bytes(folder.file("a.tar"), bytes);
    EXPECT_THAT(error_of([&] { open(folder.file("a.tar")); }),
                ::testing::AllOf(HasSubstr("a.tar"), HasSubstr(says)));
  }
  const auto nothing = write_tar(folder.file("nothing.tar"), {{"readme.md", "no samples"}});
  EXPECT_THAT(error_of([&] { open(nothing); }), HasSubstr("nothing.tar"));
}

TEST(WebDataset, ATruncatedTarGivesWhatCanBeRead) {
  const TemporaryFolder folder;
  const std::string whole = testing::read_bytes(write_tar(folder.file("whole.tar"), sound_samples(6)));
  std::set<std::int64_t> sizes;
  for (std::size_t length = 2 * 2048; length + 2 * kTarBlock < whole.size(); length += 777) {
    testing::write_bytes(folder.file("cut.tar"), whole.substr(0, length));
    std::shared_ptr<const WebDataset> dataset;
    std::string log;
    try {
      const Opened opened = open(folder.file("cut.tar"));
      dataset = opened.dataset;
      log = opened.log;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("no sample"));
      continue;
    }
    for (std::int64_t i = 0; i < dataset->size(); ++i) EXPECT_EQ(dataset->read(i).captions.size(), 2u);
    sizes.insert(dataset->size());
    const bool only_padding_lost = dataset->size() == 6;
    if (!only_padding_lost) {
      EXPECT_GE(dataset->damage().tar_breaks, 1) << length;
      EXPECT_THAT(log, HasSubstr("cut.tar: broken at byte")) << length;
    }
  }
  EXPECT_GE(sizes.size(), 3u);  // otherwise the cuts above tried nothing
}

TEST(WebDataset, ATarCutBetweenTwoMembersIsNoticed) {
  const TemporaryFolder folder;
  const Members members = sound_samples(3);
  const std::string whole = testing::read_bytes(write_tar(folder.file("whole.tar"), members));
  std::size_t length = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    length += kTarBlock + (members[i].second.size() + kTarBlock - 1) / kTarBlock * kTarBlock;
  }
  testing::write_bytes(folder.file("cut.tar"), whole.substr(0, length));
  const auto [dataset, log] = open(folder.file("cut.tar"));
  EXPECT_EQ(dataset->size(), 2);
  EXPECT_EQ(dataset->damage().tar_breaks, 1);
  EXPECT_THAT(log, HasSubstr("end-of-archive"));
}

TEST(WebDataset, FindsItsWayAfterAGarbledHeader) {
  const TemporaryFolder folder;
  const Members members = sound_samples(5);
  std::string bytes = testing::read_bytes(write_tar(folder.file("a.tar"), members));
  std::size_t header = 0;  // of s01.jpg
  for (std::size_t i = 0; i < 2; ++i) {
    header += kTarBlock + (members[i].second.size() + kTarBlock - 1) / kTarBlock * kTarBlock;
  }
  for (std::size_t i = 0; i < 100; ++i) bytes[header + i] = '\x5a';
  testing::write_bytes(folder.file("a.tar"), bytes);
  const auto [dataset, log] = open(folder.file("a.tar"));
  EXPECT_EQ(dataset->size(), 4);
  EXPECT_EQ(dataset->damage().tar_breaks, 1);
  EXPECT_EQ(dataset->damage().incomplete_samples, 1);
  EXPECT_THAT(log, HasSubstr(fmt::format("a.tar: broken at byte {}", header)));
  EXPECT_THAT(log, HasSubstr("a.tar: s01"));
}

TEST(WebDataset, KeysThatOccurInSeveralShardsAreMentioned) {
  const TemporaryFolder folder;
  write_tar(folder.file("a-0.tar"), sound_samples(2));
  write_tar(folder.file("a-1.tar"), sound_samples(3));
  const auto [dataset, log] = open(folder.file("a-{0..1}.tar"));
  EXPECT_EQ(dataset->size(), 5);
  EXPECT_THAT(log, HasSubstr("2 keys occur in several shards"));
}

TEST(ImageIdNumber, IsStableAndTellsIdsApart) {
  // Worked out independently, with Python's integers.
  EXPECT_EQ(image_id_number(""), 8640173135264257171);
  EXPECT_EQ(image_id_number("502115726_927dd684d3"), 213871568118818004);
  std::set<std::int64_t> numbers;
  for (int i = 0; i < 20000; ++i) numbers.insert(image_id_number(std::to_string(i)));
  EXPECT_EQ(numbers.size(), 20000u);
  EXPECT_GE(*numbers.begin(), 0);
}

}  // namespace
}  // namespace tessera::data
