#pragma once

#include <cstdint>

#include "config/training_config.h"

namespace tessera::train {

/// The stretch of a run that an optimizer lives for.
enum class Phase { kOnly = 0, kLoraFrozen = 1, kLoraTrains = 2 };

/// When LoRA is frozen and how the learning rate moves, in steps of the optimizer. A pure function of the
/// configuration and the number of steps an epoch has.
class PhaseSchedule {
 public:
  /// @param has_lora  false: one phase, whatever lora_warmup_epochs says
  PhaseSchedule(const ScheduleConfig& schedule, bool has_lora, std::int64_t steps_per_epoch);

  /// @param epoch from 0
  Phase phase_of(std::int64_t epoch) const;
  /// Whether a phase change falls on the start of this epoch (never on epoch 0).
  bool switches_at(std::int64_t epoch) const;

  std::int64_t epochs() const { return schedule_.epochs; }
  std::int64_t total_steps() const { return total_steps_; }
  /// First step of phase 2; 0 where it starts the run, total_steps() where it never comes.
  std::int64_t switch_step() const;

  /// Factor on a group's peak learning rate for the update number `step` (from 0): linear warm-up, then decay
  /// to final_fraction. `rebuild: reset` starts the whole curve afresh at the switch over the steps that
  /// remain.
  double factor(std::int64_t step) const;
  /// The same for the LoRA group: its own warm-up from the switch, times the curve of the others; where that
  /// curve starts at the switch too (`rebuild: reset`, or no phase 1), the lower of the two.
  double lora_factor(std::int64_t step) const;

 private:
  /// The step at which the curve began that a step lies on.
  std::int64_t curve_start(std::int64_t step) const;
  double curve(std::int64_t step, std::int64_t total) const;

  ScheduleConfig schedule_;
  bool has_lora_;
  std::int64_t steps_per_epoch_;
  std::int64_t total_steps_;
};

}  // namespace tessera::train
