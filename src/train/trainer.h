#pragma once

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
#include "data/webdataset.h"
#include "language/tokenizer.h"
#include "model/build.h"
#include "train/checkpoint.h"
#include "train/deferred_metrics.h"
#include "train/observer.h"
#include "train/phase_schedule.h"
#include "train/run_folder.h"
#include "train/training_step.h"

namespace tessera::train {

struct TrainerOptions {
  std::string resume;  ///< "latest", a checkpoint's path, or empty for a new run
  std::int64_t stop_after =
      0;  ///< end, with everything saved, once this many updates are done; 0: at the end
  bool log_to_terminal = true;
};

struct RunOutcome {
  std::int64_t steps = 0;
  bool interrupted = false;  ///< by SIGTERM, SIGINT or stop_after; the state was saved
};

/// A training run from its configuration to its last checkpoint: phases, validation, checkpoints, logs.
/// What a step computes is TrainingStep's business.
class Trainer {
 public:
  /// Opens the data, builds the model, and reads the checkpoint to go on from.
  /// @throws Error / ConfigError
  Trainer(const Config& config, const TrainerOptions& options);
  ~Trainer();

  RunOutcome run();

  model::Stage1Model& model() { return *built_.model; }
  const AdamW& optimizer() const { return *optimizer_; }
  const Position& position() const { return position_; }
  const RunFolder& folder() const { return folder_; }

 private:
  void build(const std::filesystem::path& resume_from);
  void open_run(const std::filesystem::path& resume_from, bool log_to_terminal);
  void warn_of_changed_keys(const std::filesystem::path& resume_from) const;
  void open_data();
  void start_phase(Phase phase, bool resuming);
  void keep_random_backbone();

  bool run_epoch(const StopSignal& stop);
  bool must_stop(const StopSignal& stop) const;
  void run_step(const data::Batch& batch);
  std::vector<double> learning_rates() const;
  void observe(const ReadRecord& record);
  /// Waits for the step whose metrics are still in flight, so that they are checked.
  void observe_last_step();
  void stop_if_not_finite(const ReadRecord& record) const;
  nlohmann::json rates(std::int64_t images);

  void finish_epoch();
  void validate();
  void save();
  void export_backbone() const;

  Config config_;
  std::int64_t stop_after_;
  Compute compute_;
  SingleProcess collectives_;
  RunFolder folder_;
  Logger logger_;
  Logger file_logger_;
  std::vector<std::unique_ptr<Observer>> observers_;

  language::Tokenizer tokenizer_;
  std::shared_ptr<const data::WebDataset> training_data_;
  std::shared_ptr<const data::WebDataset> validation_data_;
  std::unique_ptr<data::TrainLoader> loader_;

  model::BuiltModel built_;
  std::unique_ptr<PhaseSchedule> schedule_;
  std::unique_ptr<AdamW> optimizer_;
  std::unique_ptr<TrainingStep> training_step_;
  DeferredMetrics metrics_;
  Position position_;

  struct RateClock;
  std::unique_ptr<RateClock> clock_;
};

/// "Phase 1: LoRA adapters FROZEN | Trainable params: 30,123,456"; empty for a run of one phase.
std::string phase_line(Phase phase, std::int64_t trainable_parameters);

}  // namespace tessera::train
