#include "train/run_log.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/files.h"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;

class JsonLinesLogTest : public testing::Test {
 protected:
  void SetUp() override {
    file_ = fs::temp_directory_path() / fmt::format("tessera-metrics-{}.jsonl", getpid());
    fs::remove(file_);
  }
  void TearDown() override { fs::remove(file_); }

  std::vector<nlohmann::json> lines() const {
    std::vector<nlohmann::json> parsed;
    std::istringstream text(read_file(file_));
    for (std::string line; std::getline(text, line);) parsed.push_back(nlohmann::json::parse(line));
    return parsed;
  }

  fs::path file_;
};

TEST_F(JsonLinesLogTest, WritesOneObjectALine) {
  {
    JsonLinesLog log(file_, 0, true, null_logger());
    log.on_step({{"step", 10}, {"loss", 2.5}});
    log.on_validation({{"step", 10}, {"mean_r1", 0.25}});
  }
  const auto written = lines();
  ASSERT_EQ(written.size(), 2u);
  EXPECT_EQ(written[0]["type"], "step");
  EXPECT_EQ(written[0]["loss"], 2.5);
  EXPECT_EQ(written[1]["type"], "validation");
}

TEST_F(JsonLinesLogTest, ResumingTellsNoStepTwiceAndDropsATornLine) {
  write_file_atomically(file_,
                        "{\"step\":10,\"type\":\"step\"}\n{\"step\":20,\"type\":\"step\"}\n{\"step\":3");
  {
    JsonLinesLog log(file_, 10, true, null_logger());
    log.on_step({{"step", 20}});
  }
  const auto written = lines();
  ASSERT_EQ(written.size(), 2u);
  EXPECT_EQ(written[0]["step"], 10);
  EXPECT_EQ(written[1]["step"], 20);
}

TEST_F(JsonLinesLogTest, ResumingTellsNoValidationTwice) {
  const std::string before =
      "{\"step\":10,\"type\":\"step\"}\n{\"step\":10,\"type\":\"validation\"}\n{\"step\":11,\"type\":"
      "\"step\"}\n";
  write_file_atomically(file_, before);
  { const JsonLinesLog log(file_, 10, /*validated=*/true, null_logger()); }
  EXPECT_EQ(lines().size(), 2u);
  { const JsonLinesLog log(file_, 10, /*validated=*/false, null_logger()); }
  ASSERT_EQ(lines().size(), 1u);
  EXPECT_EQ(lines()[0]["type"], "step");
}

TEST_F(JsonLinesLogTest, AFullDiskIsToldOfOnce) {
  const fs::path said = fs::path(file_).replace_extension(".log");
  fs::remove(said);
  {
    JsonLinesLog log("/dev/full", 0, true, make_logger({said}, /*to_terminal=*/false));
    for (const int step : {10, 20, 30}) log.on_step({{"step", step}});
  }
  const std::string text = read_file(said);
  fs::remove(said);
  for (const char* part : {"/dev/full", "No space left on device", "from step 10 on"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
}

TEST_F(JsonLinesLogTest, AFailedWriteLeavesNoHalfLine) {
  const fs::path said = fs::path(file_).replace_extension(".log");
  fs::remove(said);
  {
    JsonLinesLog log(file_, 0, true, make_logger({said}, /*to_terminal=*/false));
    log.on_step({{"step", 10}, {"filling", std::string(4000, 'x')}});  // the other log stays below the limit
    // A limit on the file's size in the middle of the next line stands for a disk with room for half of it.
    const auto handler = std::signal(SIGXFSZ, SIG_IGN);
    rlimit before = {};
    getrlimit(RLIMIT_FSIZE, &before);
    const rlimit tight = {fs::file_size(file_) + 5, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &tight);
    log.on_step({{"step", 20}});
    setrlimit(RLIMIT_FSIZE, &before);
    std::signal(SIGXFSZ, handler);
    log.on_step({{"step", 30}});
  }
  const std::string text = read_file(said);
  fs::remove(said);
  EXPECT_NE(text.find("can be written again; lines that are missing: 1"), std::string::npos) << text;
  const auto written = lines();
  ASSERT_EQ(written.size(), 2u);
  EXPECT_EQ(written[1]["step"], 30);
}

TEST(StepLine, SaysWhereTheRunIs) {
  const std::string line = step_line({{"epoch", 3},
                                      {"epochs", 6},
                                      {"step", 250},
                                      {"total_steps", 750},
                                      {"loss", 2.125},
                                      {"loss_itc", 2.125},
                                      {"images_per_second", 118.2},
                                      {"seconds_left", 252.0}});
  for (const char* part :
       {"epoch 3/6", "step 250/750", "loss 2.1250", "itc 2.1250", "118 images/s", "4 min 12 s left"}) {
    EXPECT_NE(line.find(part), std::string::npos) << part << " in " << line;
  }
}

TEST(DurationText, ReadsWell) {
  EXPECT_EQ(duration_text(0.4), "0 s");
  EXPECT_EQ(duration_text(59.4), "59 s");
  EXPECT_EQ(duration_text(60), "1 min 00 s");
  EXPECT_EQ(duration_text(7500), "2 h 05 min");
}

}  // namespace
}  // namespace tessera::train
