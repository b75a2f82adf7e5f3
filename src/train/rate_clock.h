#pragma once

#include <chrono>
#include <cstdint>
#include <nlohmann/json_fwd.hpp>

namespace tessera::train {

/// Wall-clock figures between two logged steps.
class RateClock {
 public:
  void count(std::int64_t images);
  /// images_per_second, data_wait_share and seconds_left since the last call.
  /// @param seconds_waited  for data, since the beginning of the run
  nlohmann::json read(double seconds_waited, std::int64_t steps_left);
  /// What has passed since the last step was no training (a validation, a checkpoint).
  void restart();
  /// From here on a step takes another time: seconds_left follows the next reading alone.
  void forget() { seconds_per_step_ = 0; }

 private:
  using Clock = std::chrono::steady_clock;

  Clock::time_point since_ = Clock::now();
  double waited_before_ = 0;
  std::int64_t images_ = 0;
  std::int64_t steps_ = 0;
  double seconds_per_step_ = 0;  ///< smoothed over the logged intervals
};

}  // namespace tessera::train
