#include "train/run_log.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <limits>
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
    JsonLinesLog log(file_, 0);
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
    JsonLinesLog log(file_, 10);
    log.on_step({{"step", 20}});
  }
  const auto written = lines();
  ASSERT_EQ(written.size(), 2u);
  EXPECT_EQ(written[0]["step"], 10);
  EXPECT_EQ(written[1]["step"], 20);
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
