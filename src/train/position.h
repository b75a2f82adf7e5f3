#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "train/phase_schedule.h"

namespace tessera::train {

/// The training data as a run counts through it: what tells whether a position in it still means the same.
struct DataMark {
  std::int64_t samples = 0;  ///< 0: a checkpoint from before this was written down
  std::string keys;          ///< SHA-1 of the samples' keys in their order (keys_hash)
};

/// Where a run stands: everything that decides which sample comes next and how.
struct Position {
  std::int64_t epoch = 0;       ///< from 0
  std::int64_t next_batch = 0;  ///< in that epoch
  std::int64_t step = 0;        ///< updates done
  /// The same by the schedule's count, whose epochs have as many steps as the present batch size makes of
  /// them: differs from `step` where the batch size was changed on the way.
  std::int64_t schedule_step = 0;
  Phase phase = Phase::kOnly;         ///< that the optimizer was built for
  std::optional<double> best_metric;  ///< before the validation that this checkpoint's own file tells of
  DataMark data;

  /// The one that the run is in counts from its first batch on.
  std::int64_t epochs_begun() const { return next_batch > 0 ? epoch + 1 : epoch; }
};

}  // namespace tessera::train
