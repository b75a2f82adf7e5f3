// What ends a training run from outside, and what must not: signals, terminals, a second run, a full disk.

#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "config/config.h"
#include "core/files.h"
#include "core/folder_lock.h"
#include "model/weights.h"
#include "tests/apps/child_process.h"
#include "tests/apps/programs.h"
#include "tests/apps/run_to_end.h"
#include "tests/train/small_run.h"
#include "train/checkpoint.h"
#include "train/run_folder.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

class RunLifetime : public testing::Test {
 protected:
  static void SetUpTestSuite() { small_ = new train::SmallRun("tessera-lifetime"); }
  static void TearDownTestSuite() {
    delete small_;
    small_ = nullptr;
  }

  /// Writes a configuration that ends by itself after `steps`, or practically never.
  static fs::path config(const std::string& name, std::int64_t steps = 0) {
    Config config = small_->config(name);
    config.schedule.epochs = 100000;
    config.schedule.max_steps = steps;
    config.schedule.lora_warmup_epochs = 0;
    config.eval.every_epochs = 0;
    config.checkpoint.every_epochs = 0;
    const fs::path file = small_->root() / (name + ".yaml");
    write_file_atomically(file, to_yaml(config));
    return file;
  }
  static train::RunFolder folder(const std::string& name) {
    return train::RunFolder(small_->run_folder(name));
  }
  static std::string text_of(const fs::path& file) { return fs::exists(file) ? read_file(file) : ""; }

  static bool wait_until(const std::function<bool()>& holds) {
    for (int try_number = 0; try_number < 3000; ++try_number) {
      if (holds()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    return false;
  }
  static bool trains(const std::string& name) {
    return wait_until([&] { return !text_of(small_->run_folder(name) / "metrics.jsonl").empty(); });
  }

  static train::SmallRun* small_;
};

train::SmallRun* RunLifetime::small_ = nullptr;

TEST_F(RunLifetime, SignalsOfSchedulersAndTerminalsSaveAndStop) {
  for (const int signal : {SIGHUP, SIGUSR1, SIGUSR2}) {
    const std::string name = "signal-" + std::to_string(signal);
    const pid_t child = start({kTrain, "--config", config(name).string()});
    ASSERT_TRUE(trains(name));
    kill(child, signal);
    kill(child, signal);  // from the kernel and from the shell, or from two daemons of a scheduler
    EXPECT_EQ(ending_of(child), 0) << signal;
    const auto latest = folder(name).pointed("latest");
    ASSERT_TRUE(latest) << signal;
    EXPECT_EQ(train::read_position(folder(name).checkpoint(*latest)).step, *latest);
  }
}

TEST_F(RunLifetime, NohupIsHeeded) {
  const pid_t child = start({kTrain, "--config", config("nohup").string()}, -1, SIGHUP);
  ASSERT_TRUE(trains("nohup"));
  kill(child, SIGHUP);
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_EQ(waitpid(child, nullptr, WNOHANG), 0) << "the run ended";
  kill(child, SIGTERM);
  EXPECT_EQ(ending_of(child), 0);
}

TEST_F(RunLifetime, AReaderThatGoesAwayDoesNotEndARun) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t child = start({kTrain, "--config", config("pipe", 8).string()}, ends[1]);
  close(ends[1]);
  close(ends[0]);
  EXPECT_EQ(ending_of(child), 0);
  EXPECT_EQ(folder("pipe").pointed("latest"), 8);
}

TEST_F(RunLifetime, WithoutStandardStreamsNoFileGetsMessages) {
  const Finished finished = run_to_end("exec 9>&1; " + kTrain + " --config " + config("closed", 8).string() +
                                       " <&- >&- 2>&-; echo code $? >&9");
  EXPECT_NE(finished.output.find("code 0"), std::string::npos) << finished.output;
  std::istringstream lines(text_of(small_->run_folder("closed") / "metrics.jsonl"));
  int steps = 0;
  for (std::string line; std::getline(lines, line); ++steps) {
    EXPECT_TRUE(nlohmann::json::accept(line)) << line;
  }
  EXPECT_EQ(steps, 8);
  EXPECT_NO_THROW(model::load_model(folder("closed").checkpoint(8)));
}

TEST_F(RunLifetime, ASecondRunOfTheNameIsRefusedAndTheFirstGoesOn) {
  const std::string file = config("twice").string();
  const pid_t first = start({kTrain, "--config", file});
  // It has just started: long before its first checkpoint, which would tell that there is a run.
  ASSERT_TRUE(wait_until([&] { return !lock_holder(small_->run_folder("twice")).empty(); }));
  const Finished second = run_to_end(kTrain + " --config " + file + " --set schedule.max_steps=8");
  EXPECT_EQ(second.exit_code, 2) << second.output;
  EXPECT_NE(second.output.find(small_->run_folder("twice").string()), std::string::npos) << second.output;
  EXPECT_NE(second.output.find("process " + std::to_string(first)), std::string::npos) << second.output;
  ASSERT_TRUE(trains("twice"));
  kill(first, SIGTERM);
  EXPECT_EQ(ending_of(first), 0);
  EXPECT_EQ(folder("twice").steps().size(), 1u);
}

TEST_F(RunLifetime, AResumedRunWaitsForTheOneThatStillSaves) {
  const std::string file = config("requeued").string();
  const pid_t first = start({kTrain, "--config", file});
  ASSERT_TRUE(trains("requeued"));
  const pid_t second = start({kTrain, "--config", file, "--resume"});
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_EQ(waitpid(second, nullptr, WNOHANG), 0) << "the second run did not wait";
  kill(first, SIGTERM);
  EXPECT_EQ(ending_of(first), 0);
  const auto saved = folder("requeued").pointed("latest");
  ASSERT_TRUE(saved);
  const auto goes_on = [&] {
    return text_of(small_->run_folder("requeued") / "training.log").find("resumed from") != std::string::npos;
  };
  EXPECT_TRUE(wait_until(goes_on));
  // It may be building its tables still, and a signal ends it at once until the first step.
  const auto size = fs::file_size(small_->run_folder("requeued") / "metrics.jsonl");
  EXPECT_TRUE(
      wait_until([&] { return fs::file_size(small_->run_folder("requeued") / "metrics.jsonl") > size; }));
  kill(second, SIGTERM);
  EXPECT_EQ(ending_of(second), 0);
  EXPECT_GT(folder("requeued").pointed("latest").value_or(0), *saved);
}

TEST_F(RunLifetime, AFullDiskForLogsIsToldOfOnce) {
  const std::string file = config("full", 8).string();
  fs::create_directories(small_->run_folder("full"));
  for (const char* log : {"metrics.jsonl", "training.log"}) {
    fs::create_symlink("/dev/full", small_->run_folder("full") / log);
  }
  const Finished finished = run_to_end(kTrain + " --config " + file);
  EXPECT_EQ(finished.exit_code, 0) << finished.output;
  EXPECT_EQ(folder("full").pointed("latest"), 8);
  for (const char* log : {"metrics.jsonl", "training.log"}) {
    const auto count = [&](const std::string& output) {
      int lines = 0;
      std::istringstream stream(output);
      for (std::string line; std::getline(stream, line);) {
        if (line.find(log) != std::string::npos && line.find("No space left") != std::string::npos) ++lines;
      }
      return lines;
    };
    EXPECT_EQ(count(finished.output), 1) << log << "\n" << finished.output;
  }
}

}  // namespace
}  // namespace tessera
