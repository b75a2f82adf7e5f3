#include "train/validation.h"

#include <gtest/gtest.h>

#include <atomic>
#include <csignal>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "core/error.h"
#include "core/files.h"
#include "model/stage1_model.h"
#include "tests/core/error_of.h"
#include "tests/train/broken_pictures.h"
#include "tests/train/runs.h"
#include "tests/train/small_run.h"
#include "train/checkpoint.h"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;

/// The validations that a run's metrics tell of, in order.
std::vector<nlohmann::json> validations(const fs::path& run) {
  std::vector<nlohmann::json> found;
  std::istringstream lines(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    nlohmann::json record = nlohmann::json::parse(line);
    if (record.at("type") == "validation") found.push_back(std::move(record));
  }
  return found;
}

class ValidationTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    small_ = new SmallRun("tessera-validation");
    train(small_->config("whole"));
  }
  static void TearDownTestSuite() {
    delete small_;
    small_ = nullptr;
  }

  static RunFolder folder(const std::string& name) { return RunFolder(small_->run_folder(name)); }

  /// The same weights, the same validations and the same best as the run that nothing happened to.
  static void expect_like_whole(const std::string& name) {
    expect_same_checkpoint(folder("whole").checkpoints() / "latest", folder(name).checkpoints() / "latest");
    EXPECT_EQ(folder(name).pointed("best"), folder("whole").pointed("best"));
    EXPECT_EQ(validations(small_->run_folder(name)), validations(small_->run_folder("whole")));
    EXPECT_EQ(read_position(folder(name).checkpoint(24)).best_metric,
              read_position(folder("whole").checkpoint(24)).best_metric);
  }

  static SmallRun* small_;
};

SmallRun* ValidationTest::small_ = nullptr;

TEST_F(ValidationTest, AFailingOneLosesNothing) {
  Config config = small_->config("broken");
  const fs::path sound = config.data.validation.front();
  const fs::path broken = small_->root() / "broken-val.tar";
  break_pictures(sound, broken, 2);
  config.data.validation = {broken.string()};
  const std::string error = error_of([&] { train(config); });
  for (const char* part :
       {"validation at step 6", "max_broken_fraction", "--resume", "eval.every_epochs=0"}) {
    EXPECT_NE(error.find(part), std::string::npos) << part << " in " << error;
  }
  EXPECT_NE(read_file(small_->run_folder("broken") / "training.log").find("validation at step 6"),
            std::string::npos);
  EXPECT_EQ(folder("broken").steps(), (std::vector<std::int64_t>{6}));
  EXPECT_EQ(folder("broken").pointed("latest"), 6);
  EXPECT_FALSE(folder("broken").pointed("best"));
  // It fails again, and at once, as long as nothing is mended; then the run goes on with what it owed.
  EXPECT_NE(error_of([&] { train(config, "latest"); }).find("validation at step 6"), std::string::npos);
  fs::remove(broken);
  fs::copy_file(sound, broken);
  EXPECT_EQ(train(config, "latest").steps, 24);
  expect_like_whole("broken");
}

/// The run as it is when the process was killed between saving step 12 and validating it.
void leave_validation_owed(const RunFolder& run) {
  run.point("latest", 12);
  run.unpoint("phase1");
  fs::remove_all(run.checkpoint(13));
  fs::remove(run.checkpoint(12) / "validation.json");
  run.point("best", 6);
}

TEST_F(ValidationTest, AScoreThatIsNotFiniteLosesNothing) {
  const Config config = small_->config("not-finite");
  train(config, "", 13);
  const RunFolder run = folder("not-finite");
  leave_validation_owed(run);
  {
    TrainerOptions options = kQuiet;
    options.resume = "latest";
    Trainer trainer(config, options);
    const at::NoGradGuard no_grad;
    for (at::Tensor& parameter : trainer.model().parameters()) parameter.mul_(1e30);
    const std::string error = error_of([&] { trainer.run(); });
    for (const char* part : {"validation at step 12", "not finite", "--resume"}) {
      EXPECT_NE(error.find(part), std::string::npos) << part << " in " << error;
    }
  }
  EXPECT_EQ(run.steps(), (std::vector<std::int64_t>{6, 12}));
  EXPECT_EQ(run.pointed("best"), 6);
  EXPECT_FALSE(read_validation(run.checkpoint(12)));
  EXPECT_EQ(train(config, "latest").steps, 24);
  expect_like_whole("not-finite");
}

TEST_F(ValidationTest, ARunKilledBeforeItIsDoneStillOwesIt) {
  const Config config = small_->config("killed");
  train(config, "", 13);
  // Though its line may have been written.
  leave_validation_owed(folder("killed"));
  EXPECT_EQ(train(config, "latest").steps, 24);
  expect_like_whole("killed");
}

TEST_F(ValidationTest, ARunStoppedAtItsLastStepStillOwesIt) {
  const Config config = small_->config("last-step");
  EXPECT_TRUE(train(config, "", 24).interrupted);
  EXPECT_EQ(validations(small_->run_folder("last-step")).size(), 3u);
  EXPECT_FALSE(train(config, "latest").interrupted);
  expect_like_whole("last-step");
  // And then owes nothing more.
  EXPECT_EQ(train(config, "latest").steps, 24);
  expect_like_whole("last-step");
}

TEST_F(ValidationTest, ASignalEndsIt) {
  Config config = small_->config("signalled");
  const fs::path shard = config.data.validation.front();
  for (int copy = 0; copy < 40; ++copy) {  // so that it lasts
    const fs::path more = small_->root() / fmt::format("validation-{}.tar", copy);
    fs::copy_file(shard, more);
    config.data.validation.push_back(more.string());
  }
  config.eval.batch_size = 1;
  TrainerOptions options = kQuiet;
  Trainer trainer(config, options);
  const fs::path saved = trainer.folder().checkpoint(6) / "state";
  std::thread sender([&] {
    while (!fs::exists(saved)) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    kill(getpid(), SIGUSR1);
  });
  const RunOutcome outcome = trainer.run();
  sender.join();
  EXPECT_TRUE(outcome.interrupted);
  EXPECT_EQ(outcome.steps, 6);
  EXPECT_EQ(trainer.folder().pointed("latest"), 6);
  EXPECT_FALSE(trainer.folder().pointed("best"));
  EXPECT_FALSE(read_validation(trainer.folder().checkpoint(6)));
}

TEST_F(ValidationTest, ARunThatEndsInsideAnEpochIsValidated) {
  Config config = small_->config("inside");
  config.schedule.max_steps = 8;
  config.eval.every_epochs = 3;
  EXPECT_EQ(train(config).steps, 8);
  EXPECT_EQ(folder("inside").pointed("best"), 8);
  const auto records = validations(small_->run_folder("inside"));
  ASSERT_EQ(records.size(), 1u);
  EXPECT_EQ(records[0].at("step"), 8);
  EXPECT_EQ(records[0].at("epoch"), 2);
  EXPECT_EQ(train(config, "latest").steps, 8);
  EXPECT_EQ(validations(small_->run_folder("inside")).size(), 1u);
}

TEST_F(ValidationTest, EveryStepsAreSavedWhereverTheyFall) {
  Config config = small_->config("every-steps");
  config.vision.trainable = lora::TrainableChoice::kNone;  // one phase
  config.eval.every_epochs = 0;
  config.checkpoint.every_epochs = 0;
  config.checkpoint.every_steps = 3;
  config.schedule.epochs = 3;
  train(config);
  EXPECT_EQ(folder("every-steps").steps(), (std::vector<std::int64_t>{3, 6, 9, 12, 15, 18}));
}

TEST_F(ValidationTest, BestIsOfOneMetricAndOneSetOfPictures) {
  Config config = small_->config("other-metric");
  train(config, "", 13);
  const RunFolder run = folder("other-metric");
  const auto set_figures = [&](std::int64_t step, double r1, double r5) {
    nlohmann::json record = *read_validation(run.checkpoint(step));
    record["mean_r1"] = r1;
    record["mean_r5"] = r5;
    write_validation(run.checkpoint(step), record, record.at("validation_data"));
  };
  set_figures(6, 0.5, 0.6);
  set_figures(12, 0.4, 0.7);
  run.point("best", 6);
  // By the other figure the other one is best: 0.5 of the first must not be compared with 0.7 of the second.
  config.checkpoint.best_metric = "mean_r5";
  train(config, "latest", 13);
  EXPECT_EQ(run.pointed("best"), 12);
  // On other pictures nothing is known yet.
  config.data.validation = config.data.train;
  TrainerOptions options = kQuiet;
  options.resume = "latest";
  const Trainer trainer(config, options);
  EXPECT_FALSE(trainer.position().best_metric);
}

}  // namespace
}  // namespace tessera::train
