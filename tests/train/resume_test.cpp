#include "train/resume.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "config/config.h"
#include "config/config_table.h"
#include "core/error.h"
#include "core/files.h"
#include "tests/core/error_of.h"

namespace tessera::train {
namespace {

TEST(ResumeRules, EveryKeyHasOneAndEveryRuleHasKeys) {
  Config config;
  const ConfigTable table = config_table(config);
  for (const ConfigKey& key : table.keys()) {
    const ResumeRule& rule = resume_rule(key.path);
    EXPECT_FALSE(rule.remark.empty()) << key.path;
    EXPECT_EQ(rule.refusal != nullptr, rule.may == OnResume::kSometimes) << key.path;
  }
  for (const ResumeRule& rule : resume_rules()) {
    for (const std::string& about : rule.keys) {
      EXPECT_TRUE(table.find_key(about) != nullptr || table.find_section(about) != nullptr) << about;
      const auto& keys = table.keys();
      const bool counts = std::any_of(keys.begin(), keys.end(),
                                      [&](const ConfigKey& key) { return &resume_rule(key.path) == &rule; });
      EXPECT_TRUE(counts) << about << ": other rules go before";
    }
  }
}

TEST(ResumeRules, TheManualHasTheTable) {
  const std::string manual = read_file(std::string(TESSERA_SOURCE_DIR) + "/docs/training.md");
  EXPECT_NE(manual.find(resume_rules_markdown()), std::string::npos)
      << "docs/training.md: the table of keys should be\n"
      << resume_rules_markdown();
}

/// A run of 8 epochs over 44 samples in batches of 8, of which `step` steps are done; LoRA from the third on.
Resumption resumption_at(std::int64_t step) {
  Resumption from;
  from.checkpoint = "/runs/a/checkpoints/step";
  from.then.data.batch_size = 8;
  from.then.data.drop_last = false;
  from.then.vision.trainable = lora::TrainableChoice::kLora;
  from.then.schedule.epochs = 8;
  from.then.schedule.lora_warmup_epochs = 2;
  from.then.schedule.lora_warmup_steps = 4;
  from.now = from.then;
  from.data = {44, "keys"};
  from.saved.data = from.data;
  from.saved.step = from.saved.schedule_step = step;
  from.saved.epoch = step / 6;
  from.saved.next_batch = step % 6;
  return from;
}

/// The message that a change is refused with; "no error" where it is not.
template <typename Change>
std::string refused(std::int64_t step, const Change& change) {
  Resumption from = resumption_at(step);
  change(from.now);
  return error_of([&] { check_resumption(from); });
}

TEST(CheckResumption, RefusesWhatIsFixedAndNamesTheWay) {
  const std::string error = refused(13, [](Config& now) {
    now.run.seed = 4;
    now.lora.r = 99;
  });
  for (const char* part :
       {"run.seed: 4, was 0", "lora.r: 99, was 16", "init_from=/runs/a/checkpoints/step"}) {
    EXPECT_NE(error.find(part), std::string::npos) << part << " in " << error;
  }
}

TEST(CheckResumption, TellsWhatMayChangeAndWhatHasNoEffect) {
  Resumption from = resumption_at(13);
  from.now.schedule.learning_rate = 0.5;
  from.now.losses.itc.temperature = 0.5;
  const std::vector<std::string> lines = check_resumption(from);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_NE(lines[0].find("losses.itc.temperature: 0.5, was 0.07 (without effect"), std::string::npos)
      << lines[0];
  EXPECT_NE(lines[1].find("schedule.learning_rate: 0.5, was"), std::string::npos) << lines[1];
  EXPECT_EQ(lines[1].find("without effect"), std::string::npos) << lines[1];
}

TEST(CheckResumption, RefusesOtherData) {
  Resumption fewer = resumption_at(13);
  fewer.data.samples = 22;
  EXPECT_NE(error_of([&] { check_resumption(fewer); }).find("data.train: 22 samples, were 44"),
            std::string::npos);
  Resumption others = resumption_at(13);
  others.data.keys = "other keys";
  EXPECT_NE(error_of([&] { check_resumption(others); }).find("data.train: as many"), std::string::npos);
  // A checkpoint that does not know what it counted: the counts have to agree.
  Resumption old = resumption_at(13);
  old.saved.data = {};
  EXPECT_EQ(error_of([&] { check_resumption(old); }), "no error");
  old.now.data.batch_size = old.then.data.batch_size = 4;
  EXPECT_NE(error_of([&] { check_resumption(old); }).find("data.train"), std::string::npos);
}

TEST(CheckResumption, RefusesASchedulesWhosePastWouldBend) {
  const auto more_epochs = [](Config& now) { now.schedule.epochs = 16; };
  EXPECT_NE(refused(48, more_epochs).find("schedule.epochs: 16, was 8"), std::string::npos);
  EXPECT_NE(refused(13, more_epochs).find("peak learning rate"), std::string::npos);
  EXPECT_EQ(refused(0, more_epochs), "no error");
  const auto shorter = [](Config& now) { now.schedule.max_steps = 10; };
  EXPECT_NE(refused(13, shorter).find("--stop-after"), std::string::npos);
  // Back into phase 1, out of phase 2 or not.
  const auto frozen_longer = [](Config& now) { now.schedule.lora_warmup_epochs = 4; };
  EXPECT_NE(refused(19, frozen_longer).find("epoch 3 has been trained in phase 2"), std::string::npos);
  EXPECT_EQ(refused(8, frozen_longer), "no error");
  EXPECT_EQ(refused(12, frozen_longer), "no error");
  const auto frozen_shorter = [](Config& now) { now.schedule.lora_warmup_epochs = 1; };
  EXPECT_NE(refused(8, frozen_shorter).find("epoch 2 has been trained in phase 1"), std::string::npos);
  EXPECT_EQ(refused(6, frozen_shorter), "no error");
  // While rates still rise, how they will fall is open.
  const auto linear = [](Config& now) { now.schedule.decay = DecayChoice::kLinear; };
  EXPECT_EQ(refused(3, linear), "no error");
  EXPECT_NE(refused(20, linear).find("schedule.decay"), std::string::npos);
  // LoRA's own warm-up: before and after it, not within.
  const auto slower = [](Config& now) { now.schedule.lora_warmup_steps = 6; };
  EXPECT_EQ(refused(12, slower), "no error");
  EXPECT_NE(refused(14, slower).find("schedule.lora_warmup_steps"), std::string::npos);
  EXPECT_EQ(refused(20, slower), "no error");
}

TEST(CheckResumption, AConstantRateMayGoOnForLonger) {
  Resumption from = resumption_at(48);
  from.then.schedule.decay = DecayChoice::kConstant;
  from.now = from.then;
  from.now.schedule.epochs = 16;
  EXPECT_EQ(error_of([&] { check_resumption(from); }), "no error");
  // Without LoRA there is no rate of LoRA that could jump.
  from.then.vision.trainable = from.now.vision.trainable = lora::TrainableChoice::kNone;
  from.now.schedule.lora_warmup_steps = 9;
  EXPECT_EQ(error_of([&] { check_resumption(from); }), "no error");
}

TEST(CheckResumption, LossesAreNotSwitchedOnOrOff) {
  EXPECT_EQ(refused(13, [](Config& now) { now.losses.itm.weight = 0.5; }), "no error");
  EXPECT_NE(refused(13, [](Config& now) { now.losses.itm.weight = 0; }).find("losses.itm.weight: 0, was 1"),
            std::string::npos);
}

TEST(CheckResumption, LossesThatHaveBegunStayBegun) {
  const auto later = [](Config& now) { now.losses.itm.from_epoch = 5; };
  const std::string error = refused(13, later);
  EXPECT_NE(error.find("losses.itm.from_epoch: 5, was 1 (in epoch 1, which has been trained, "),
            std::string::npos)
      << error;
  EXPECT_EQ(refused(0, later), "no error");
  // In epoch 3: what begins after it may begin at another time after it.
  Resumption from = resumption_at(13);
  from.then.losses.memory.from_epoch = from.now.losses.memory.from_epoch = 6;
  EXPECT_EQ(error_of([&] { check_resumption(from); }), "no error");
  from.now.losses.memory.from_epoch = 4;
  EXPECT_EQ(error_of([&] { check_resumption(from); }), "no error");
  from.now.losses.memory.from_epoch = 3;
  EXPECT_NE(error_of([&] { check_resumption(from); }).find("none began, and memory would have"),
            std::string::npos);
}

TEST(PositionNow, CountsSamplesWhereTheBatchSizeChanged) {
  std::vector<std::string> notes;
  Resumption from = resumption_at(9);  // epoch 2, 24 of its samples shown
  from.now.data.batch_size = 4;
  EXPECT_EQ(error_of([&] { check_resumption(from); }), "no error");
  Position position = position_now(from, notes);
  EXPECT_EQ(position.epoch, 1);
  EXPECT_EQ(position.next_batch, 6);
  EXPECT_EQ(position.step, 9);
  EXPECT_EQ(position.schedule_step, 11 + 6);
  EXPECT_TRUE(notes.empty());

  from.now.data.batch_size = 16;  // its batches begin at 0, 16 and 32
  position = position_now(from, notes);
  EXPECT_EQ(position.next_batch, 1);
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_NE(notes[0].find("the 8 before it are shown again"), std::string::npos) << notes[0];

  // Stopped after an epoch's last batch: nothing of it is left, whatever its size.
  from = resumption_at(5);
  from.saved.next_batch = 6;
  from.now.data.batch_size = 16;
  EXPECT_EQ(position_now(from, notes).next_batch, 3);
  EXPECT_EQ(notes.size(), 1u);
}

TEST(PositionNow, TheBatchSizeStaysWhereStepsAreCounted) {
  const auto smaller = [](Config& now) { now.data.batch_size = 4; };
  EXPECT_EQ(refused(12, smaller), "no error") << "LoRA's warm-up has not begun";
  const std::string warming_up = refused(13, smaller);
  EXPECT_NE(warming_up.find("1 of its 4 are done"), std::string::npos) << warming_up;
  EXPECT_NE(warming_up.find("--stop-after 16"), std::string::npos) << warming_up;
  EXPECT_EQ(refused(16, smaller), "no error");
  // In larger batches it would be under way again.
  const auto larger = [](Config& now) { now.data.batch_size = 32; };
  const std::string again = refused(16, larger);
  EXPECT_NE(again.find("4 of its 4 are done, and it would be at 1"), std::string::npos) << again;
  EXPECT_NE(again.find("--stop-after 27"), std::string::npos) << again;
  EXPECT_EQ(refused(27, larger), "no error");
  Resumption from = resumption_at(9);
  from.then.schedule.max_steps = 40;
  from.now = from.then;
  from.now.data.batch_size = 4;
  EXPECT_NE(error_of([&] { check_resumption(from); }).find("max_steps"), std::string::npos);
}

}  // namespace
}  // namespace tessera::train
