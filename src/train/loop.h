#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/logging.h"
#include "core/stop_signal.h"
#include "train/adamw.h"
#include "train/deferred_metrics.h"
#include "train/observer.h"
#include "train/phase_schedule.h"
#include "train/position.h"
#include "train/rate_clock.h"
#include "train/run_folder.h"
#include "train/task.h"

namespace tessera {
struct Config;
}

namespace tessera::train {

struct RunOutcome {
  std::int64_t steps = 0;
  bool interrupted = false;  ///< by a signal (core/stop_signal.h) or stop_after; the state was saved
};

/// Epochs, phases, the optimizer, validation, checkpoints, signals, and who is told: a run of a Task from a
/// position to its end.
class Loop {
 public:
  /// @param folder      of the run; whoever holds its lock
  /// @param stop_after  end, with everything saved, once this many updates are done; 0: at the end
  Loop(const Config& config, Task& task, const RunFolder& folder, const Compute& compute, Logger logger,
       std::int64_t stop_after);

  /// A new run from its first step.
  void begin();
  /// Reads what a checkpoint has of the task and its optimizer.
  /// @param position  where the run goes on
  void resume(const std::filesystem::path& checkpoint, const Position& position);
  /// Says that the position's checkpoint has its validation.
  void set_validated(bool validated) { validated_ = validated; }
  void set_best_metric(std::optional<double> value) { position_.best_metric = value; }
  void add_observer(std::unique_ptr<Observer> observer) { observers_.push_back(std::move(observer)); }
  /// "Phase 1: …" with the parameters that train; nothing for a run of one phase.
  void log_phase() const;

  /// @throws Error where training or a validation fails. The state that a validation or missing data ends the
  /// run at has been saved.
  RunOutcome run(const StopSignal& stop);

  const AdamW& optimizer() const { return *optimizer_; }
  const Position& position() const { return position_; }
  const PhaseSchedule& schedule() const { return schedule_; }

 private:
  std::unique_ptr<AdamW> make_optimizer(Phase phase);
  void switch_phase(Phase phase);

  void train();
  void run_epoch();
  void begin_epoch();
  bool next_batch();
  void run_step();
  bool finished() const;
  bool must_stop() const;
  void stop_if_asked() const;
  std::vector<double> learning_rates() const;
  nlohmann::json host_record(const std::vector<double>& learning_rates);
  void observe(const ReadRecord& record);
  /// Waits for the step whose metrics are still in flight, so that they are checked.
  void observe_last_step();
  void stop_if_not_finite(const ReadRecord& record) const;

  bool checkpoint_due() const;
  bool validation_due() const;
  /// At an epoch's end, and at a run's: saves, then validates what was saved, then points `best`.
  void settle();
  void validate();
  void save();
  void save_unless_saved();

  const Config& config_;
  Task& task_;
  const RunFolder& folder_;
  Compute compute_;
  Logger logger_;
  std::int64_t stop_after_;
  PhaseSchedule schedule_;
  std::unique_ptr<AdamW> optimizer_;
  DeferredMetrics metrics_;
  std::vector<std::string> checked_figures_;  ///< that end the run where they are not finite
  std::vector<std::unique_ptr<Observer>> observers_;
  Position position_;
  bool validated_ = false;
  RateClock clock_;
  const StopSignal* stop_ = nullptr;  ///< while run() runs
};

/// "Phase 1: LoRA adapters FROZEN | Trainable params: 30,123,456"; empty for a run of one phase.
std::string phase_line(Phase phase, std::int64_t trainable_parameters);

}  // namespace tessera::train
