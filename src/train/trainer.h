#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "core/collectives.h"
#include "core/device.h"
#include "core/logging.h"
#include "core/stop_signal.h"
#include "train/contrastive_task.h"
#include "train/loop.h"
#include "train/resume.h"
#include "train/run_folder.h"
#include "train/run_lock.h"

namespace tessera::model {
class Stage1Model;
}

namespace tessera::train {

struct TrainerOptions {
  std::string resume;  ///< "latest", a checkpoint's path, or empty for a new run
  std::int64_t stop_after =
      0;  ///< end, with everything saved, once this many updates are done; 0: at the end
  bool log_to_terminal = true;
  /// How long a run that resumes waits for another process that still holds its folder, and may be saving.
  std::chrono::seconds patience{60};
};

/// A training run from its configuration to its last checkpoint: its folder, its logs, the checkpoint that it
/// goes on from, and a Loop over a ContrastiveTask.
class Trainer {
 public:
  /// Locks the run's folder, opens the data, builds the model, and reads the checkpoint to go on from.
  /// Everything that can be wrong in the input shows before the run's folder is changed.
  /// @throws Error / ConfigError
  Trainer(const Config& config, const TrainerOptions& options);
  ~Trainer();

  /// @throws Error as Loop::run does
  RunOutcome run();
  /// The same with a request to stop that outlives the trainer.
  RunOutcome run(const StopSignal& stop);

  model::Stage1Model& model() { return task_->model(); }
  const AdamW& optimizer() const { return loop_->optimizer(); }
  const Position& position() const { return loop_->position(); }
  const RunFolder& folder() const { return folder_; }

 private:
  void refuse_another_run() const;
  void warn_before_log(const std::string& line);
  std::optional<Resumption> find_resumption(const std::string& resume);
  void prepare(const std::optional<Resumption>& from, std::int64_t stop_after);
  void open_folder(const std::optional<Resumption>& from, bool log_to_terminal);
  void describe_run() const;
  void restore_best(const Resumption& from);
  void begin();
  void log_failure(const std::exception& error) const;

  Config config_;
  Logger logger_;
  RunFolder folder_;
  RunLock lock_;
  Compute compute_;
  SingleProcess collectives_;
  std::vector<std::filesystem::path> log_files_;
  std::vector<std::string> early_warnings_;  ///< from before the log files were open
  std::unique_ptr<ContrastiveTask> task_;
  std::unique_ptr<Loop> loop_;
};

}  // namespace tessera::train
