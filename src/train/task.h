#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "train/adamw.h"
#include "train/phase_schedule.h"
#include "train/position.h"
#include "train/step_output.h"

namespace tessera {
class Archive;
}

namespace tessera::train {

/// An epoch that begins, or is entered again.
struct EpochStart {
  std::int64_t epoch = 0;        ///< counted from 0
  std::int64_t first_batch = 0;  ///< at which it is entered
  std::int64_t epochs = 0;       ///< of the schedule
  std::int64_t last_epoch =
      0;  ///< in which the run ends, counted from 1: schedule.max_steps may cut it short
};

/// What a Loop trains: its data, what a step computes, what of it is validated and saved. Another way of
/// training is another Task.
class Task {
 public:
  virtual ~Task() = default;

  // The data.
  virtual DataMark data() const = 0;
  virtual std::int64_t batches_per_epoch() const = 0;
  /// @return whether a step takes another time from here on
  virtual bool begin_epoch(const EpochStart& start) = 0;
  /// Makes the epoch's next batch ready. @return whether there is one
  /// @throws Error where too much of the data is broken
  virtual bool next_batch() = 0;
  /// Of the batch that is ready.
  virtual const BatchInfo& batch() const = 0;
  /// Total time that next_batch() waited for data, in seconds.
  virtual double seconds_waited() const = 0;

  // A step over the batch that is ready.
  /// @param step  updates done before this one
  virtual StepOutput compute(std::int64_t step) = 0;
  /// What follows the optimizer's update. @param step  the same
  virtual void after_update(std::int64_t step) = 0;
  /// Figures of a logged step that the host knows without asking the device.
  virtual nlohmann::json host_metrics() = 0;
  /// Metrics beside the loss that end the run where they are not finite.
  virtual std::vector<std::string> loss_names() const = 0;

  // What trains.
  /// Whether there are adapters, for which phases are.
  virtual bool has_lora() const = 0;
  virtual void set_phase(Phase phase) = 0;
  virtual void set_training(bool training) = 0;
  virtual std::int64_t trainable_parameters() const = 0;
  virtual std::vector<ParameterGroup> parameter_groups() const = 0;

  // Validation.
  /// Whether there is something to validate on, and the epochs begun so far have trained what it measures.
  virtual bool can_validate(std::int64_t epochs_begun) const = 0;
  /// @param between  called again and again while it lasts; what it throws ends the validation
  virtual nlohmann::json validate(const std::function<void()>& between) = 0;
  /// Tells one validation set from another; empty where there is none.
  virtual const std::string& validation_mark() const = 0;

  // What it leaves.
  /// Everything that the trained model is used with, into an existing folder.
  virtual void save(const std::filesystem::path& folder) const = 0;
  virtual void load(const std::filesystem::path& folder) = 0;
  /// What is needed beside that to go on as if nothing had been between.
  virtual void save_state(Archive& archive) const = 0;
  virtual void load_state(const Archive& archive) = 0;
  /// What a run leaves beside its checkpoints once it has finished.
  virtual void export_to(const std::filesystem::path& folder) const = 0;
};

}  // namespace tessera::train
