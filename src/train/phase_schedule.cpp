#include "train/phase_schedule.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tessera::train {

PhaseSchedule::PhaseSchedule(const ScheduleConfig& schedule, bool has_lora, std::int64_t steps_per_epoch)
    : schedule_(schedule), has_lora_(has_lora), steps_per_epoch_(steps_per_epoch) {
  TORCH_CHECK(steps_per_epoch > 0, "PhaseSchedule: an epoch must have at least one step");
  total_steps_ = schedule.epochs * steps_per_epoch;
  if (schedule.max_steps > 0) total_steps_ = std::min(total_steps_, schedule.max_steps);
}

Phase PhaseSchedule::phase_of(std::int64_t epoch) const {
  if (!has_lora_) return Phase::kOnly;
  return epoch < schedule_.lora_warmup_epochs ? Phase::kLoraFrozen : Phase::kLoraTrains;
}

bool PhaseSchedule::switches_at(std::int64_t epoch) const {
  return epoch > 0 && phase_of(epoch) != phase_of(epoch - 1);
}

std::int64_t PhaseSchedule::switch_step() const {
  return std::min(schedule_.lora_warmup_epochs * steps_per_epoch_, total_steps_);
}

double PhaseSchedule::curve(std::int64_t step, std::int64_t total) const {
  const auto warmup =
      static_cast<std::int64_t>(std::llround(schedule_.warmup_fraction * static_cast<double>(total)));
  if (step < warmup) return static_cast<double>(step + 1) / static_cast<double>(warmup);
  const double progress =
      static_cast<double>(step - warmup) / static_cast<double>(std::max<std::int64_t>(1, total - warmup));
  const double left = std::clamp(1.0 - progress, 0.0, 1.0);
  const double end = schedule_.final_fraction;
  switch (schedule_.decay) {
    case DecayChoice::kConstant:
      return 1.0;
    case DecayChoice::kLinear:
      return end + (1.0 - end) * left;
    case DecayChoice::kCosine:
      return end + (1.0 - end) * 0.5 * (1.0 + std::cos(std::numbers::pi * (1.0 - left)));
  }
  return 1.0;
}

std::int64_t PhaseSchedule::curve_start(std::int64_t step) const {
  const bool starts_afresh = has_lora_ && schedule_.rebuild == RebuildChoice::kReset && step >= switch_step();
  return starts_afresh ? switch_step() : 0;
}

double PhaseSchedule::factor(std::int64_t step) const {
  const std::int64_t start = curve_start(step);
  return curve(step - start, total_steps_ - start);
}

double PhaseSchedule::lora_factor(std::int64_t step) const {
  const std::int64_t since = step - switch_step();
  if (since < 0) return 0.0;
  const double own =
      schedule_.lora_warmup_steps > 0
          ? std::min(1.0, static_cast<double>(since + 1) / static_cast<double>(schedule_.lora_warmup_steps))
          : 1.0;
  // Where the common curve begins with LoRA, its own warm-up is one already: the slower of the two counts,
  // and their product would be a warm-up squared.
  return curve_start(step) == switch_step() ? std::min(own, factor(step)) : own * factor(step);
}

}  // namespace tessera::train
