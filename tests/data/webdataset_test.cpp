#include "data/webdataset.h"

#include <gmock/gmock.h>
#include <spdlog/sinks/ostream_sink.h>

#include <cstring>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "data/file_pattern.h"
#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr std::size_t kTarBlock = 512;

struct Opened {
  std::shared_ptr<const WebDataset> dataset;
  std::string log;
};

Opened open(const std::string& pattern) {
  std::ostringstream log;
  const auto logger =
      std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(log));
  Opened result{WebDataset::open(expand_patterns({pattern}), logger), {}};
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
  EXPECT_THAT(log, HasSubstr("not used: 1 hidden (such as '._list.jpg'), 1 of other kinds (.cls 1)"));
  const Sample list = dataset->read(0);
  EXPECT_EQ(list.key, "list");
  EXPECT_EQ(list.file, path);
  EXPECT_EQ(list.image_id, "17");
  EXPECT_THAT(list.captions, ElementsAre("one", "two"));
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(list.image.data()), list.image.size()), jpeg);
  EXPECT_TRUE(dataset->read_captions(0).image.empty());
  EXPECT_THAT(dataset->read_captions(0).captions, ElementsAre("one", "two"));
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

TEST(WebDataset, NaNInARecordDoesNoHarmWhereNobodyReadsIt) {
  const TemporaryFolder folder;
  const std::string jpeg = encoded_image(".jpg", 1);
  const auto path = write_tar(
      folder.file("a.tar"),
      {{"a.jpg", jpeg},
       {"a.json", R"({"similarity": NaN, "caption": "NaN and Infinity", "scores": [-Infinity, {"x": NaN}]})"},
       {"b.jpg", jpeg},
       {"b.json", R"({"caption": NaN})"}});
  const auto dataset = open(path).dataset;
  EXPECT_THAT(dataset->read(0).captions, ElementsAre("NaN and Infinity"));
  EXPECT_TRUE(std::isnan(dataset->read_json(0).at("similarity").get<double>()));
  EXPECT_THAT(error_of([&] { dataset->read(1); }), HasSubstr("b"));
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
  std::string tar = read_bytes(write_tar(
      folder.file("a.tar"), {{"pax", "20 path=größe.jpg\n"}, {"short.jpg", "image"}, {"größe.txt", "grow"}}));
  make_pax_header(tar, 0);
  write_bytes(folder.file("a.tar"), tar);
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
  EXPECT_EQ(dataset->damage().breaks, 0);
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
  const std::string sound = read_bytes(write_tar(folder.file("sound.tar"), sound_samples(2)));
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
    write_bytes(folder.file(name), bytes);
    EXPECT_THAT(error_of([&, &name = name] { open(folder.file(name)); }), HasSubstr(name)) << name;
  }
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 20480\n";
  const std::pair<std::string, const char*> stand_ins[] = {
      {pointer, "git lfs pull"},
      {"<!doctype html><title>404</title>" + std::string(2000, ' '), "web page"},
      {"\x1f\x8b\x08" + std::string(600, '\0'), "a gzip archive; unpack it first"}};
  for (const auto& [bytes, says] : stand_ins) {
    write_bytes(folder.file("a.tar"), bytes);
    EXPECT_THAT(error_of([&] { open(folder.file("a.tar")); }),
                ::testing::AllOf(HasSubstr("a.tar"), HasSubstr(says)));
  }
  const auto nothing = write_tar(folder.file("nothing.tar"), {{"readme.md", "no samples"}});
  EXPECT_THAT(error_of([&] { open(nothing); }), HasSubstr("nothing.tar"));
}

TEST(WebDataset, ATruncatedTarGivesWhatCanBeRead) {
  const TemporaryFolder folder;
  const std::string whole = read_bytes(write_tar(folder.file("whole.tar"), sound_samples(6)));
  std::set<std::int64_t> sizes;
  for (std::size_t length = 2 * 2048; length + 2 * kTarBlock < whole.size(); length += 777) {
    write_bytes(folder.file("cut.tar"), whole.substr(0, length));
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
      EXPECT_GE(dataset->damage().breaks, 1) << length;
      EXPECT_THAT(log, HasSubstr("cut.tar: broken at byte")) << length;
    }
  }
  EXPECT_GE(sizes.size(), 3u);  // otherwise the cuts above tried nothing
}

TEST(WebDataset, ATarCutBetweenTwoMembersIsNoticed) {
  const TemporaryFolder folder;
  const Members members = sound_samples(3);
  const std::string whole = read_bytes(write_tar(folder.file("whole.tar"), members));
  std::size_t length = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    length += kTarBlock + (members[i].second.size() + kTarBlock - 1) / kTarBlock * kTarBlock;
  }
  write_bytes(folder.file("cut.tar"), whole.substr(0, length));
  const auto [dataset, log] = open(folder.file("cut.tar"));
  EXPECT_EQ(dataset->size(), 2);
  EXPECT_EQ(dataset->damage().breaks, 1);
  EXPECT_THAT(log, HasSubstr("end-of-archive"));
}

TEST(WebDataset, ATarThatZerosFillUpWasNotWhole) {
  const TemporaryFolder folder;
  std::string tar = read_bytes(write_tar(folder.file("whole.tar"), sound_samples(3)));
  write_bytes(folder.file("padded.tar"), tar + std::string(1 << 20, '\0'));
  EXPECT_EQ(open(folder.file("padded.tar")).dataset->damage().breaks, 0);
  write_bytes(folder.file("filled.tar"), tar + std::string(5 << 20, '\0'));
  const auto [dataset, log] = open(folder.file("filled.tar"));
  EXPECT_EQ(dataset->size(), 3);
  EXPECT_EQ(dataset->damage().breaks, 1);
  EXPECT_THAT(log, HasSubstr("was its download or copy ended early?"));
  write_bytes(folder.file("zeros.tar"), std::string(5 << 20, '\0'));
  EXPECT_THAT(error_of([&] { open(folder.file("zeros.tar")); }), HasSubstr("ended early?"));
}

TEST(WebDataset, AHiddenFolderAroundAllIsNoReason) {
  const TemporaryFolder folder;
  Members members;
  for (const auto& [name, content] : sound_samples(2)) members.emplace_back("home/u/.cache/" + name, content);
  members.emplace_back("home/u/.cache/._x.jpg", "resource fork");
  const auto [dataset, log] = open(write_tar(folder.file("hidden.tar"), members));
  EXPECT_EQ(dataset->size(), 2);
  EXPECT_THAT(log, HasSubstr("1 hidden (such as 'home/u/.cache/._x.jpg')"));
}

TEST(WebDataset, FindsItsWayAfterAGarbledHeader) {
  const TemporaryFolder folder;
  const Members members = sound_samples(5);
  std::string bytes = read_bytes(write_tar(folder.file("a.tar"), members));
  std::size_t header = 0;  // of s01.jpg
  for (std::size_t i = 0; i < 2; ++i) {
    header += kTarBlock + (members[i].second.size() + kTarBlock - 1) / kTarBlock * kTarBlock;
  }
  for (std::size_t i = 0; i < 100; ++i) bytes[header + i] = '\x5a';
  write_bytes(folder.file("a.tar"), bytes);
  const auto [dataset, log] = open(folder.file("a.tar"));
  EXPECT_EQ(dataset->size(), 4);
  EXPECT_EQ(dataset->damage().breaks, 1);
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

std::vector<std::string> keys_of(const WebDataset& dataset) {
  std::vector<std::string> keys;
  for (std::int64_t i = 0; i < dataset.size(); ++i) keys.push_back(dataset.key(i));
  return keys;
}

TEST(WebDataset, ATextServesWhereTheJsonHasNoUsableCaption) {
  for (const char* json : {R"({"caption": null})", R"({"captions": [null]})", R"({"caption": 2012})",
                           R"({"captions": "a list?"})", R"({"image_id": 12.0})"}) {
    const TemporaryFolder folder;
    const auto [dataset, log] =
        open(write_tar(folder.file("a.tar"), {{"k.jpg", "x"}, {"k.json", json}, {"k.txt", "from text"}}));
    EXPECT_THAT(dataset->read(0).captions, ElementsAre("from text")) << json;
  }
  const TemporaryFolder folder;
  const auto [dataset, log] = open(
      write_tar(folder.file("a.tar"), {{"k.jpg", "x"}, {"k.json", R"({"caption": 2012})"}, {"k.txt", "  "}}));
  EXPECT_THAT(error_of([&, &dataset = dataset] { dataset->read(0); }),
              HasSubstr("k.json: 'caption': expected a string, found number"));
}

TEST(WebDataset, NamesMayHaveDots) {
  const TemporaryFolder folder;
  const auto [dataset, log] =
      open(write_tar(folder.file("a.tar"), {{"photo v1.7.png", "a"},
                                            {"photo v1.7.txt", "seven"},
                                            {"photo v1.8.JPG", "b"},
                                            {"photo v1.8.json", R"({"caption": "eight"})"},
                                            {"v1.2/Mr. Smith.webp", "c"},
                                            {"v1.2/Mr. Smith.txt", "he"},
                                            {"v1.2/Mr. Jones.txt", "no picture"},
                                            {"plain.jpg", "d"},
                                            {"plain.txt", "as ever"}}));
  EXPECT_THAT(keys_of(*dataset), ElementsAre("photo v1.7", "photo v1.8", "v1.2/Mr. Smith", "plain"));
  EXPECT_THAT(dataset->read(1).captions, ElementsAre("eight"));
  EXPECT_EQ(dataset->read(2).image_id, "v1.2/Mr. Smith");
  EXPECT_EQ(dataset->damage().incomplete_samples, 1);
  EXPECT_THAT(log, HasSubstr("v1.2/Mr. Jones: left out, has no image"));
}

TEST(WebDataset, FurtherFilesOfASampleAreNoSamples) {
  const TemporaryFolder folder;
  const auto [dataset, log] = open(write_tar(folder.file("a.tar"), {{"a.seg.png", "mask"},
                                                                    {"a.jpg", "a"},
                                                                    {"a.json", R"({"caption": "one"})"},
                                                                    {"a.seg.json", R"({"classes": [3]})"},
                                                                    {"a.en.txt", "another"},
                                                                    {"b.1.x.jpg", "b"},
                                                                    {"b.1.x.txt", "two"},
                                                                    {"b.1.x.depth.png", "depth"},
                                                                    {"c.jpg", "no captions"},
                                                                    {"c.mask.png", "no loss of its own"}}));
  EXPECT_THAT(keys_of(*dataset), ElementsAre("a", "b.1.x"));
  EXPECT_EQ(dataset->damage().incomplete_samples, 1);
  EXPECT_THAT(log, HasSubstr("c: left out, has no captions"));
  EXPECT_THAT(log, HasSubstr("3 further files of a sample (such as 'a.en')"));
  // A picture with captions is not left out as quietly.
  EXPECT_THAT(log,
              HasSubstr("[warning] left out: 1 pairs whose name is another sample's key and goes on with "
                        "a dot (such as 'a.seg after a')"));
}

TEST(WebDataset, JoinedArchivesAreReadToTheLast) {
  const TemporaryFolder folder;
  const std::string one = read_bytes(write_tar(folder.file("one.tar"), sound_samples(2)));
  Members others = sound_samples(3);
  for (auto& [name, content] : others) name = "other-" + name;
  const std::string two = read_bytes(write_tar(folder.file("two.tar"), others));
  // As `cat` leaves them, with more zeros between and after them, and with the same keys in both.
  write_bytes(folder.file("cat.tar"), one + two);
  write_bytes(folder.file("padded.tar"),
              one + std::string(20 * kTarBlock, '\0') + two + std::string(77, '\0'));
  for (const char* name : {"cat.tar", "padded.tar"}) {
    const auto [dataset, log] = open(folder.file(name));
    EXPECT_EQ(dataset->size(), 5) << name;
    EXPECT_EQ(dataset->key(4), "other-s02") << name;
    EXPECT_EQ(dataset->read(2).captions.front(), "first of 0") << name;
    EXPECT_EQ(log, "") << name;
  }
  write_bytes(folder.file("twice.tar"), one + one);
  const auto [dataset, log] = open(folder.file("twice.tar"));
  EXPECT_EQ(dataset->size(), 4);
  EXPECT_EQ(dataset->damage().incomplete_samples, 0);
  EXPECT_THAT(log, HasSubstr("2 keys occur in several shards or archives"));
}

TEST(WebDataset, AShardThatShrinksIsAnErrorForItsSamplesAlone) {
  const TemporaryFolder folder;
  const std::string path = write_tar(folder.file("a.tar"), sound_samples(20));
  const auto [dataset, log] = open(path);
  std::filesystem::resize_file(path, std::filesystem::file_size(path) / 2);
  int errors = 0;
  for (std::int64_t i = 0; i < dataset->size(); ++i) {
    const std::string error = error_of([&, &dataset = dataset] { dataset->read(i); });
    if (error.empty()) continue;
    ++errors;
    EXPECT_THAT(error, HasSubstr("a.tar: has become shorter than it was"));
  }
  EXPECT_GT(errors, 5);
  EXPECT_LT(errors, 15);
}

TEST(WebDataset, OfManyIncompleteSamplesAFewAreNamedAndTheRestCounted) {
  const TemporaryFolder folder;
  Members members = sound_samples(3);
  for (int i = 0; i < 40; ++i) members.emplace_back(fmt::format("lonely-{}.jpg", i), "x");
  const auto [dataset, log] = open(write_tar(folder.file("a.tar"), members));
  EXPECT_EQ(dataset->damage().incomplete_samples, 40);
  EXPECT_THAT(log, HasSubstr("lonely-4: left out"));
  EXPECT_THAT(log, ::testing::Not(HasSubstr("lonely-5: left out")));
  EXPECT_THAT(log, HasSubstr("left out, 35 more such samples"));
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
