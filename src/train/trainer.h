#pragma once

#include <chrono>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/collectives.h"
#include "core/config.h"
#include "core/device.h"
#include "core/logging.h"
#include "core/stop_signal.h"
#include "data/loader.h"
#include "data/source.h"
#include "language/tokenizer.h"
#include "model/build.h"
#include "train/adamw.h"
#include "train/checkpoint.h"
#include "train/deferred_metrics.h"
#include "train/observer.h"
#include "train/phase_schedule.h"
#include "train/rate_clock.h"
#include "train/resume.h"
#include "train/run_folder.h"
#include "train/run_lock.h"
#include "train/training_step.h"

namespace tessera::train {

struct TrainerOptions {
  std::string resume;  ///< "latest", a checkpoint's path, or empty for a new run
  std::int64_t stop_after =
      0;  ///< end, with everything saved, once this many updates are done; 0: at the end
  bool log_to_terminal = true;
  /// How long a run that resumes waits for another process that still holds its folder, and may be saving.
  std::chrono::seconds patience{60};
};

struct RunOutcome {
  std::int64_t steps = 0;
  bool interrupted = false;  ///< by a signal (core/stop_signal.h) or stop_after; the state was saved
};

/// A training run from its configuration to its last checkpoint: phases, validation, checkpoints, logs.
/// What a step computes is TrainingStep's business.
class Trainer {
 public:
  /// Locks the run's folder, opens the data, builds the model, and reads the checkpoint to go on from.
  /// @throws Error / ConfigError
  Trainer(const Config& config, const TrainerOptions& options);
  ~Trainer();

  /// @throws Error where training or a validation fails. The state that a validation or missing data ends the
  /// run at has been saved.
  RunOutcome run();
  /// The same with a request to stop that outlives the trainer.
  RunOutcome run(const StopSignal& stop);

  model::Stage1Model& model() { return *built_.model; }
  const AdamW& optimizer() const { return *optimizer_; }
  const Position& position() const { return position_; }
  const RunFolder& folder() const { return folder_; }

 private:
  // Opening (trainer_opening.cpp). Everything that can be wrong in the input shows before the run's folder is
  // changed.
  void open_data();
  void warn_before_log(const std::string& line);
  std::optional<Resumption> find_resumption(const std::string& resume);
  void build(const std::optional<Resumption>& from);
  void prepare(const std::optional<Resumption>& from);
  void open_folder(const std::optional<Resumption>& from, bool log_to_terminal);
  void restore_best(const Resumption& from);
  void begin();
  void keep_random_backbone();

  std::unique_ptr<AdamW> make_optimizer(Phase phase);
  void log_phase() const;
  void switch_phase(Phase phase);

  void train();
  void run_epoch();
  void begin_losses();
  void warn_of_losses_that_never_begin() const;
  bool validates_itc() const;
  std::optional<data::Batch> next_batch();
  bool finished() const;
  bool must_stop() const;
  void stop_if_asked() const;
  void run_step(const data::Batch& batch);
  std::vector<double> learning_rates() const;
  nlohmann::json host_record(std::int64_t images, const std::vector<double>& learning_rates);
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
  void export_backbone() const;
  void log_failure(const std::exception& error) const;

  Config config_;
  std::int64_t stop_after_;
  Logger logger_;
  RunFolder folder_;
  RunLock lock_;
  Compute compute_;
  SingleProcess collectives_;
  std::vector<std::filesystem::path> log_files_;
  std::vector<std::string> early_warnings_;  ///< from before the log files were open
  Logger file_logger_;                       ///< for what the progress line shows too
  std::vector<std::unique_ptr<Observer>> observers_;

  language::Tokenizer tokenizer_;
  std::shared_ptr<const data::Source> training_data_;
  std::shared_ptr<const data::Source> validation_data_;
  std::string validation_mark_;  ///< keys_hash of the validation data; empty without
  std::unique_ptr<data::TrainLoader> loader_;

  model::BuiltModel built_;
  std::unique_ptr<PhaseSchedule> schedule_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<TrainingStep> training_step_;
  DeferredMetrics metrics_;
  Position position_;
  bool validated_ = false;  ///< the position's checkpoint has its validation
  RateClock clock_;
  bool told_of_cut_captions_ = false;
  const StopSignal* stop_ = nullptr;  ///< while run() runs
};

/// "Phase 1: LoRA adapters FROZEN | Trainable params: 30,123,456"; empty for a run of one phase.
std::string phase_line(Phase phase, std::int64_t trainable_parameters);

}  // namespace tessera::train
