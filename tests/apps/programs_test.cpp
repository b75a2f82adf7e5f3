// The programs as a user runs them: exit codes, messages, a short quickstart, and being killed.

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "config/config.h"
#include "core/files.h"
#include "core/random.h"
#include "model/weights.h"
#include "tests/apps/child_process.h"
#include "tests/apps/programs.h"
#include "tests/apps/run_to_end.h"
#include "tests/core/temporary_folder.h"
#include "tests/train/small_run.h"
#include "train/run_folder.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

const std::string kConfigs = std::string(TESSERA_SOURCE_DIR) + "/configs/";

TEST(Stage1Train, DryRunNeedsNeitherDataNorTokenizer) {
  const Finished finished =
      run_to_end(kTrain + " --config " + kConfigs + "stage1.yaml --dry-run --set vision.weights=random");
  EXPECT_EQ(finished.exit_code, 0) << finished.output;
  for (const char* line :
       {"Phase 1: LoRA adapters FROZEN | Trainable params: ",
        "Phase 2: LoRA adapters UNFROZEN | Trainable params: ", "backbone           86,580,480",
        "lora                  589,824", "compressor            344,832", "language           24,388,992"}) {
    EXPECT_NE(finished.output.find(line), std::string::npos) << line << "\n" << finished.output;
  }
}

TEST(Stage1Train, AllLinearHasItsOwnCount) {
  const Finished finished = run_to_end(kTrain + " --config " + kConfigs +
                                       "stage1-all-linear.yaml --dry-run --set vision.weights=random");
  EXPECT_EQ(finished.exit_code, 0);
  EXPECT_NE(finished.output.find("lora                2,654,208"), std::string::npos) << finished.output;
}

TEST(Stage1Train, MistakesEndWithCodeTwoAndOneLine) {
  const fs::path file = fs::temp_directory_path() / ("tessera-mistake-" + std::to_string(getpid()) + ".yaml");
  write_file_atomically(file, "schedule:\n  epochs: many\n");
  const struct {
    std::string arguments;
    std::string expected;
  } cases[] = {
      {"--config " + file.string(), file.string() + ":2:11: "},
      {"--config " + kConfigs + "stage1.yaml --set schedule.epoch=2", "--set schedule.epoch"},
      {"--config nowhere.yaml", "nowhere.yaml"},
      {"", "--config"},
      {"--config " + kConfigs + "stage1.yaml --res", "--res"},
      {"--config " + kConfigs + "stage1.yaml stray", "stray"},
  };
  for (const auto& [arguments, expected] : cases) {
    const Finished finished = run_to_end(kTrain + " " + arguments);
    EXPECT_EQ(finished.exit_code, 2) << arguments << "\n" << finished.output;
    EXPECT_NE(finished.output.find(expected), std::string::npos) << finished.output;
    EXPECT_EQ(std::count(finished.output.begin(), finished.output.end(), '\n'), 1) << finished.output;
  }
  fs::remove(file);
}

TEST(Stage1Train, RefusesSeveralRanks) {
  const Finished finished = run_to_end("WORLD_SIZE=2 " + kTrain + " --config " + kConfigs + "stage1.yaml");
  EXPECT_EQ(finished.exit_code, 2);
  EXPECT_NE(finished.output.find("WORLD_SIZE"), std::string::npos) << finished.output;
}

TEST(Stage1Eval, NamesAFolderThatIsNoCheckpoint) {
  const Finished finished = run_to_end(kEval + " --suite retrieval --checkpoint /nowhere/at/all");
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_NE(finished.output.find("/nowhere/at/all"), std::string::npos) << finished.output;
}

TEST(Tessera, EveryCommandHasHelp) {
  for (const char* command : {"", "make-shapes", "train-tokenizer", "retrieval-pictures", "summary"}) {
    const Finished finished = run_to_end(kTessera + " " + command + " --help");
    EXPECT_EQ(finished.exit_code, 0) << command;
    EXPECT_NE(finished.output.find("Usage: tessera"), std::string::npos) << command;
  }
  EXPECT_EQ(run_to_end(kTessera + " make-shape").exit_code, 2);
}

TEST(Tessera, TrainsATokenizerOnTextThatWasSavedAnywhere) {
  const TemporaryFolder folder;
  const auto place = [&](const char* name) { return (folder.path() / name).string(); };
  const auto trained = [&](const std::string& text) {
    write_file_atomically(place("text.txt"), text);
    return run_to_end(kTessera + " train-tokenizer --shrink --output " + place("out.model") + " --text " +
                      place("text.txt"));
  };
  ASSERT_EQ(trained("a red circle\na blue square\n").exit_code, 0);
  const std::string expected = read_file(place("out.model"));
  for (const char* text : {"\xef\xbb\xbf"
                           "a red circle\na blue square\n",
                           "a red circle\r\n\r\na blue square\r\n", "a red circle\na blue square"}) {
    ASSERT_EQ(trained(text).exit_code, 0);
    EXPECT_EQ(read_file(place("out.model")), expected) << text;
  }
  const Finished latin = trained("a red circle\ncaf\xe9\na blue square\n");
  EXPECT_EQ(latin.exit_code, 0) << latin.output;
  EXPECT_EQ(read_file(place("out.model")), expected);
  EXPECT_NE(
      latin.output.find("1 of 3 lines are no UTF-8 and left out; the first: " + place("text.txt") + ":2"),
      std::string::npos)
      << latin.output;
  const Finished wide =
      trained(std::string("\xff\xfe"
                          "a\0b\0",
                          6));
  EXPECT_EQ(wide.exit_code, 1);
  EXPECT_NE(wide.output.find("UTF-16"), std::string::npos) << wide.output;
}

class QuickstartTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("tessera-quickstart-" + std::to_string(getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  /// Pairs recalled by their picture alone. Captions of so short a run tell little, so that their order is
  /// held without margins; how near a reading comes to the pair's own code is held with them.
  void expect_memory_to_remember_and_forget(const fs::path& checkpoint) {
    const fs::path report = root_ / "memory.json";
    const Finished finished = run_to_end(kTessera + " memory experiment --draws 16 --model " +
                                         checkpoint.string() + " --output " + report.string());
    ASSERT_EQ(finished.exit_code, 0) << finished.output;
    const nlohmann::json figures = nlohmann::json::parse(read_file(report));
    const auto figure = [&](const char* group, const char* name) {
      return figures.at("groups").at(group).at(name).get<double>();
    };
    const auto facts = [&](const char* group) { return figure(group, "caption_facts"); };
    EXPECT_GT(facts("written"), facts("never_written")) << finished.output;
    EXPECT_GT(facts("kept"), facts("forgotten")) << finished.output;
    EXPECT_NEAR(facts("kept"), facts("written"), 0.03) << finished.output;
    EXPECT_LT(facts("forgotten"), facts("never_written") + 0.02) << finished.output;
    EXPECT_GT(facts("code_decoded"), facts("written") - 0.02) << finished.output;
    EXPECT_GT(facts("never_written"), facts("empty_memory")) << finished.output;

    const auto similarity = [&](const char* group) { return figure(group, "read_out_similarity"); };
    EXPECT_LT(2 * (1 - similarity("written")), 1 - similarity("never_written")) << finished.output;
    EXPECT_GT(similarity("kept"), similarity("written") - 0.01) << finished.output;
    EXPECT_LT(similarity("forgotten"), similarity("never_written")) << finished.output;
    EXPECT_GT(figures.at("confidence_auc").get<double>(), 0.85) << finished.output;
  }

  fs::path root_;
};

// The quickstart on a shorter run: a looser version of what docs/results.md reports for the whole.
TEST_F(QuickstartTest, LearnsToFindHeldOutScenes) {
  const std::string shapes = (root_ / "shapes").string();
  const std::string tokenizer = (root_ / "tokenizer.model").string();
  ASSERT_EQ(
      run_to_end(kTessera + " make-shapes --output " + shapes + " --train-scenes 2000 --held-out-scenes 256")
          .exit_code,
      0);
  ASSERT_EQ(run_to_end(kTessera + " train-tokenizer --output " + tokenizer + " --vocab-size 400 --shards '" +
                       shapes + "/train-{000000..000001}.tar'")
                .exit_code,
            0);
  const Finished trained = run_to_end(
      kTrain + " --config " + kConfigs + "quickstart.yaml --set run.output_dir=" + (root_ / "runs").string() +
      " --set run.log_dir=" + (root_ / "logs").string() + " --set 'data.train=[\"" + shapes +
      "/train-{000000..000001}.tar\"]'" + " --set 'data.validation=[\"" + shapes +
      "/val-000000.tar\"]' --set language.tokenizer=" + tokenizer +
      " --set schedule.epochs=14 --set schedule.lora_warmup_epochs=9");
  ASSERT_EQ(trained.exit_code, 0) << trained.output;
  const fs::path run = root_ / "runs" / "quickstart";
  const fs::path report = root_ / "scores.json";
  const Finished evaluated =
      run_to_end(kEval + " --suite retrieval --checkpoint " + (run / "checkpoints" / "latest").string() +
                 " --output " + report.string());
  ASSERT_EQ(evaluated.exit_code, 0) << evaluated.output;
  const nlohmann::json scores = nlohmann::json::parse(read_file(report));
  EXPECT_EQ(scores.at("images"), 256);
  // Chance is 0.004.
  EXPECT_GE(scores.at("image_to_text_r1").get<double>(), 0.2);
  EXPECT_GE(scores.at("text_to_image_r1").get<double>(), 0.2);
  EXPECT_EQ(scores.at("split"), "validation");
  EXPECT_FALSE(scores.at("data").empty());

  expect_memory_to_remember_and_forget(run / "checkpoints" / "latest");

  const Finished pictures =
      run_to_end(kTessera + " retrieval-pictures --checkpoint " + (run / "checkpoints" / "phase1").string() +
                 " --output " + (root_ / "pictures").string());
  EXPECT_EQ(pictures.exit_code, 0) << pictures.output;
  EXPECT_GT(fs::file_size(root_ / "pictures" / "captions_found.png"), 1000u);
}

// kill -9 at twenty random moments: whatever is left, every checkpoint is whole and the run goes on.
TEST(Killed, NeverLeavesARunThatCannotBeLoaded) {
  const train::SmallRun small("tessera-killed");
  Config config = small.config("killed");
  config.schedule.epochs = 100000;
  config.schedule.lora_warmup_epochs = 3;
  config.checkpoint.every_steps = 1;
  config.checkpoint.keep = 2;
  config.eval.every_epochs = 0;
  const fs::path file = small.root() / "killed.yaml";
  write_file_atomically(file, to_yaml(config));
  const train::RunFolder folder(small.run_folder("killed"));

  CounterRandom random(11, RandomPurpose::kShuffle, 0, 0);
  std::int64_t last_step = 0;
  for (int round = 0; round < 20; ++round) {
    std::vector<std::string> words = {kTrain, "--config", file.string()};
    if (!folder.steps().empty()) words.insert(words.end(), {"--resume", "latest"});
    const pid_t child = start(words);
    ASSERT_GT(child, 0);
    // The first round waits for a checkpoint, so that there is something to lose; the others die at any
    // moment.
    for (int tenth = 0; round == 0 && folder.steps().empty() && tenth < 600; ++tenth) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(200 + random.below(1500)));
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, WNOHANG), 0)
        << "round " << round << ": the run ended by itself, status " << status;
    kill(child, SIGKILL);
    waitpid(child, &status, 0);
    for (const std::int64_t step : folder.steps()) {
      EXPECT_NO_THROW(model::load_model(folder.checkpoints() / fmt::format("step-{:06}", step)))
          << "step " << step;
    }
    if (const auto latest = folder.pointed("latest")) {
      EXPECT_TRUE(fs::exists(folder.checkpoints() / "latest" / "state"));
      EXPECT_GE(*latest, last_step);
      last_step = *latest;
    }
  }
  EXPECT_GT(last_step, 0) << "no round got as far as a checkpoint";
}

}  // namespace
}  // namespace tessera
