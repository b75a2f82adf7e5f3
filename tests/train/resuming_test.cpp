// Runs that go on: from older checkpoints, as copies, with changed keys, beside others.

#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "core/files.h"
#include "tests/core/error_of.h"
#include "tests/train/broken_pictures.h"
#include "tests/train/runs.h"
#include "tests/train/small_run.h"
#include "train/checkpoint.h"
#include "train/trainer.h"
#include "train/validation.h"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;

class ResumingTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    small_ = new SmallRun("tessera-resuming");
    train(small_->config("whole"));
  }
  static void TearDownTestSuite() {
    delete small_;
    small_ = nullptr;
  }

  static RunFolder folder(const std::string& name) { return RunFolder(small_->run_folder(name)); }
  static std::string log_of(const std::string& name) {
    return read_file(small_->run_folder(name) / "training.log");
  }
  static void expect_like_whole(const std::string& name) {
    expect_same_checkpoint(folder("whole").checkpoints() / "latest", folder(name).checkpoints() / "latest");
    EXPECT_EQ(folder(name).pointed("best"), folder("whole").pointed("best"));
    EXPECT_EQ(folder(name).pointed("phase1"), folder("whole").pointed("phase1"));
  }
  /// A copy of the whole run, or of another one, whose links are followed or not.
  static void copy(const std::string& from, const std::string& to, const std::string& options) {
    const std::string command = fmt::format("cp {} '{}' '{}'", options, small_->run_folder(from).string(),
                                            small_->run_folder(to).string());
    ASSERT_EQ(std::system(command.c_str()), 0);
  }

  static SmallRun* small_;
};

SmallRun* ResumingTest::small_ = nullptr;

TEST_F(ResumingTest, AnOlderCheckpointLeavesTheLaterOnesAside) {
  copy("whole", "older", "-r");
  const RunFolder run = folder("older");
  Config config = small_->config("older");
  config.checkpoint.keep = 1;
  // The best of all is one of the later ones.
  nlohmann::json record = *read_validation(run.checkpoint(18));
  record["mean_r1"] = 0.99;
  write_validation(run.checkpoint(18), record, record.at("validation_data"));
  run.point("best", 18);
  const std::string metrics = read_file(run.root() / "metrics.jsonl");

  train(config, run.checkpoint(6).string(), 7);
  // 7 is the newest now, and stays; what was later is where the log says.
  EXPECT_EQ(run.steps(), (std::vector<std::int64_t>{6, 7}));
  EXPECT_EQ(run.pointed("latest"), 7);
  EXPECT_EQ(run.pointed("best"), 6);
  EXPECT_FALSE(run.pointed("phase1"));
  const fs::path aside = run.checkpoints() / "abandoned-after-000006";
  for (const char* step : {"step-000012", "step-000018", "step-000024"}) {
    EXPECT_TRUE(fs::exists(aside / step / "state")) << step;
  }
  EXPECT_EQ(read_file(aside / "metrics.jsonl"), metrics);
  EXPECT_NE(log_of("older").find(aside.string()), std::string::npos) << log_of("older");

  config.checkpoint.keep = 0;
  EXPECT_EQ(train(config, "latest").steps, 24);
  expect_like_whole("older");
}

TEST_F(ResumingTest, ACopyWithFoldersInPlaceOfLinksGoesOn) {
  train(small_->config("stopped"), "", 13);
  copy("stopped", "copied", "-rL");
  ASSERT_FALSE(fs::is_symlink(folder("copied").checkpoints() / "latest"));
  fs::remove_all(folder("copied").checkpoint(13));  // `latest` is the only copy of it
  EXPECT_EQ(train(small_->config("copied"), "latest").steps, 24);
  expect_like_whole("copied");
}

TEST_F(ResumingTest, RefusesWhatItCannotFollowAndChangesNothing) {
  train(small_->config("changed"), "", 13);
  const RunFolder run = folder("changed");
  const std::string metrics = read_file(run.root() / "metrics.jsonl");
  const std::string log = log_of("changed");
  const auto refused = [&](const auto& change) {
    Config config = small_->config("changed");
    change(config);
    try {
      train(config, run.checkpoint(6).string());
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("not refused");
  };
  const std::string half = refused([&](Config& config) {
    config.data.train = {(small_->root() / "shapes" / "train-000000.tar").string()};
  });
  EXPECT_NE(half.find("data.train: 30 samples, were 44"), std::string::npos) << half;
  const std::string seed = refused([](Config& config) { config.run.seed = 4; });
  EXPECT_NE(seed.find("run.seed: 4, was 3"), std::string::npos) << seed;
  const std::string longer = refused([](Config& config) { config.schedule.epochs = 8; });
  EXPECT_NE(longer.find("schedule.epochs: 8, was 4"), std::string::npos) << longer;
  EXPECT_NE(longer.find("init_from"), std::string::npos) << longer;
  const std::string tokenizer = refused([&](Config& config) {
    const fs::path other = small_->root() / "other.model";
    language::train_tokenizer({"quite another text about quite other things, with its own pieces"}, other,
                              {.vocab_size = config.language.vocab_size, .hard_vocab_limit = false});
    config.language.tokenizer = other.string();
  });
  EXPECT_NE(tokenizer.find("language.tokenizer"), std::string::npos) << tokenizer;
  const std::string backbone = refused([&](Config& config) {
    config.vision.weights = (folder("whole").root() / "backbone").string();
    config.run.seed = 3;
  });
  EXPECT_EQ(backbone, "not refused") << "the same weights at another place";
  // That last one went on, from step 6; none of the others left a trace.
  EXPECT_TRUE(fs::exists(run.checkpoints() / "abandoned-after-000006" / "step-000013"));
  EXPECT_EQ(read_file(run.checkpoints() / "abandoned-after-000006" / "metrics.jsonl"), metrics);
  EXPECT_EQ(log_of("changed").substr(0, log.size()), log);
  EXPECT_EQ(log_of("changed").find("were 44"), std::string::npos);
}

TEST_F(ResumingTest, AFinishedRunDoesNotBeginAnew) {
  copy("whole", "finished", "-r");
  Config config = small_->config("finished");
  EXPECT_EQ(train(config, "latest").steps, 24);
  config.schedule.epochs = 8;
  const std::string error = error_of([&] { train(config, "latest"); });
  EXPECT_NE(error.find("schedule.epochs: 8, was 4"), std::string::npos) << error;
}

TEST_F(ResumingTest, AnotherBatchSizeGoesOnAtTheSameSampleAndRate) {
  Config config = small_->config("batches");
  train(config, "", 9);
  config.data.batch_size = 4;
  // 24 of the second epoch's 44 samples are done; 5 batches of 4 are left of it, and 11 of each of two more.
  EXPECT_EQ(train(config, "latest").steps, 9 + 5 + 2 * 11);
  std::istringstream lines(read_file(small_->run_folder("batches") / "metrics.jsonl"));
  std::map<std::int64_t, double> rate;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json record = nlohmann::json::parse(line);
    if (record.at("type") == "step") rate[record.at("step")] = record.at("learning_rate_language");
    if (record.contains("total_steps")) {
      EXPECT_EQ(record.at("total_steps"), record.at("step") <= 9 ? 24 : 36);
    }
  }
  ASSERT_EQ(rate.size(), 36u);
  EXPECT_LT(rate.at(10), rate.at(9));
  EXPECT_GT(rate.at(10), 0.9 * rate.at(9));
  EXPECT_LT(rate.at(36), 0.05 * rate.at(9));
  // The phase changes where it would have: after the second epoch.
  EXPECT_EQ(folder("batches").pointed("phase1"), 14);
}

TEST_F(ResumingTest, AFolderServesOneRunAtATime) {
  const Config config = small_->config("shared");
  const Trainer first(config, kQuiet);
  TrainerOptions impatient = kQuiet;
  impatient.patience = std::chrono::seconds(0);
  for (const char* resume : {"", "latest"}) {
    impatient.resume = resume;
    const std::string error = error_of([&] { Trainer(config, impatient); });
    EXPECT_NE(error.find(small_->run_folder("shared").string()), std::string::npos) << error;
    EXPECT_NE(error.find("in use by process"), std::string::npos) << error;
  }
}

TEST_F(ResumingTest, AMistakeLeavesNoFolder) {
  Config config = small_->config("mistaken");
  config.data.train = {(small_->root() / "nowhere.tar").string()};
  EXPECT_NE(error_of([&] { train(config); }).find("nowhere.tar"), std::string::npos);
  EXPECT_FALSE(fs::exists(small_->run_folder("mistaken")));
  EXPECT_FALSE(fs::exists(small_->root() / "logs" / "mistaken"));
}

TEST_F(ResumingTest, DataThatFailsLosesNoStep) {
  Config config = small_->config("failing-data");
  const fs::path shard = small_->root() / "failing.tar";
  const fs::path sound = small_->root() / "shapes" / "train-000000.tar";
  break_pictures(sound, shard, 2);
  config.data.train = {shard.string()};
  config.data.max_broken_fraction = 0.04;  // one of thirty
  config.eval.every_epochs = 0;
  const std::string error = error_of([&] { train(config); });
  EXPECT_NE(error.find("max_broken_fraction"), std::string::npos) << error;
  const auto latest = folder("failing-data").pointed("latest");
  ASSERT_TRUE(latest) << log_of("failing-data");
  EXPECT_NE(log_of("failing-data").find(fmt::format("the state of step {} is saved", *latest)),
            std::string::npos);
  fs::remove(shard);
  fs::copy_file(sound, shard);
  EXPECT_EQ(train(config, "latest").steps, 16);  // 30 samples make four batches
}

TEST_F(ResumingTest, ARunUnderAnotherNameNeedsNothingOfTheOldOne) {
  train(small_->config("origin"), "", 6);
  train(small_->config("heir"), folder("origin").checkpoint(6).string(), 9);
  fs::remove_all(folder("origin").root());
  EXPECT_EQ(train(small_->config("heir"), "latest").steps, 24);
  expect_same_checkpoint(folder("whole").checkpoints() / "latest", folder("heir").checkpoints() / "latest");
}

TEST_F(ResumingTest, LargerBatchesThatPutTheEpochBackOweNoValidation) {
  Config config = small_->config("put-back");
  config.schedule.lora_warmup_epochs = 3;
  train(config, "", 7);
  config.data.batch_size = 16;  // 8 samples of the second epoch are done: it begins again
  train(config, "latest", 8);
  EXPECT_FALSE(read_validation(folder("put-back").checkpoint(7)));
  EXPECT_EQ(folder("put-back").pointed("best"), 6);
}

TEST_F(ResumingTest, OtherPicturesAreValidatedOnAtOnce) {
  copy("whole", "other-pictures", "-r");
  Config config = small_->config("other-pictures");
  config.data.validation = config.data.train;
  EXPECT_EQ(train(config, "latest").steps, 24);
  EXPECT_EQ(folder("other-pictures").pointed("best"), 24);
  EXPECT_EQ(read_validation(folder("other-pictures").checkpoint(24))->at("images"), 44);
}

TEST_F(ResumingTest, GoesOnUnderAnotherName) {
  Config config = small_->config("fork");
  const std::string path = folder("whole").checkpoint(6).string();
  EXPECT_EQ(train(config, path).steps, 24);
  expect_same_checkpoint(folder("whole").checkpoints() / "latest", folder("fork").checkpoints() / "latest");
  EXPECT_EQ(folder("whole").steps().size(), 4u);
  const std::string error = error_of([&] { train(config, path); });
  EXPECT_NE(error.find("holds a run of its own"), std::string::npos) << error;
}

}  // namespace
}  // namespace tessera::train
