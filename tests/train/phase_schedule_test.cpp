#include "train/phase_schedule.h"

#include <gtest/gtest.h>

namespace tessera::train {
namespace {

ScheduleConfig schedule_of(std::int64_t epochs, std::int64_t frozen) {
  ScheduleConfig schedule;
  schedule.epochs = epochs;
  schedule.lora_warmup_epochs = frozen;
  schedule.warmup_fraction = 0.1;
  schedule.lora_warmup_steps = 10;
  return schedule;
}

TEST(PhaseSchedule, EpochSixUnfreezesAfterFiveWarmUpEpochs) {
  const PhaseSchedule schedule(schedule_of(50, 5), /*has_lora=*/true, 20);
  EXPECT_EQ(schedule.phase_of(4), Phase::kLoraFrozen);
  EXPECT_EQ(schedule.phase_of(5), Phase::kLoraTrains);
  EXPECT_TRUE(schedule.switches_at(5));
  EXPECT_FALSE(schedule.switches_at(6));
  EXPECT_EQ(schedule.switch_step(), 100);
  EXPECT_EQ(schedule.total_steps(), 1000);
}

TEST(PhaseSchedule, ZeroWarmUpEpochsStartInPhaseTwo) {
  const PhaseSchedule schedule(schedule_of(4, 0), true, 10);
  EXPECT_EQ(schedule.phase_of(0), Phase::kLoraTrains);
  for (std::int64_t epoch = 0; epoch < 4; ++epoch) EXPECT_FALSE(schedule.switches_at(epoch));
}

TEST(PhaseSchedule, WithoutLoraThereIsOnePhase) {
  const PhaseSchedule schedule(schedule_of(4, 2), false, 10);
  for (std::int64_t epoch = 0; epoch < 4; ++epoch) EXPECT_EQ(schedule.phase_of(epoch), Phase::kOnly);
}

TEST(PhaseSchedule, WarmsUpToThePeakAndDecaysToTheEnd) {
  ScheduleConfig config = schedule_of(10, 2);
  config.final_fraction = 0.1;
  for (const DecayChoice decay : {DecayChoice::kCosine, DecayChoice::kLinear}) {
    config.decay = decay;
    const PhaseSchedule schedule(config, true, 10);
    EXPECT_DOUBLE_EQ(schedule.factor(0), 0.1);
    EXPECT_DOUBLE_EQ(schedule.factor(9), 1.0);
    EXPECT_DOUBLE_EQ(schedule.factor(10), 1.0);
    EXPECT_NEAR(schedule.factor(100), 0.1, 1e-12);
    for (std::int64_t step = 11; step < 100; ++step)
      EXPECT_LT(schedule.factor(step), schedule.factor(step - 1));
  }
}

TEST(PhaseSchedule, LoraWarmsUpFromTheSwitchUnderTheCommonCurve) {
  const PhaseSchedule schedule(schedule_of(10, 5), true, 10);
  EXPECT_EQ(schedule.lora_factor(49), 0.0);
  EXPECT_NEAR(schedule.lora_factor(50), 0.1 * schedule.factor(50), 1e-12);
  EXPECT_DOUBLE_EQ(schedule.lora_factor(59), schedule.factor(59));
  EXPECT_DOUBLE_EQ(schedule.lora_factor(80), schedule.factor(80));
}

TEST(PhaseSchedule, ResetStartsTheCurveAfreshAtTheSwitch) {
  ScheduleConfig config = schedule_of(10, 5);
  config.rebuild = RebuildChoice::kReset;
  const PhaseSchedule schedule(config, true, 10);
  EXPECT_DOUBLE_EQ(schedule.factor(50), 0.2);  // warm-up over a tenth of the 50 steps that remain
  EXPECT_DOUBLE_EQ(schedule.factor(55), 1.0);
}

TEST(PhaseSchedule, ResetWarmsLoraUpOnce) {
  ScheduleConfig config = schedule_of(10, 5);
  config.rebuild = RebuildChoice::kReset;
  config.warmup_fraction = 0.08;  // four of the fifty steps that remain
  config.lora_warmup_steps = 4;
  const PhaseSchedule schedule(config, true, 10);
  EXPECT_EQ(schedule.lora_factor(49), 0.0);
  for (std::int64_t step = 50; step < 100; ++step) {
    EXPECT_DOUBLE_EQ(schedule.lora_factor(step), schedule.factor(step)) << step;
  }
  EXPECT_DOUBLE_EQ(schedule.lora_factor(50), 0.25);  // and not its square

  // The slower of both counts: a longer warm-up of LoRA's own is not made longer by the common one.
  config.lora_warmup_steps = 20;
  const PhaseSchedule slow(config, true, 10);
  EXPECT_DOUBLE_EQ(slow.lora_factor(50), 1.0 / 20);
  EXPECT_DOUBLE_EQ(slow.lora_factor(59), 10.0 / 20);
}

TEST(PhaseSchedule, MaxStepsEndsTheRunEarly) {
  ScheduleConfig config = schedule_of(10, 5);
  config.max_steps = 37;
  EXPECT_EQ(PhaseSchedule(config, true, 10).total_steps(), 37);
}

}  // namespace
}  // namespace tessera::train
