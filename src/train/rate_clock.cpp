#include "train/rate_clock.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace tessera::train {

void RateClock::count(std::int64_t images) {
  images_ += images;
  steps_ += 1;
}

nlohmann::json RateClock::read(double seconds_waited, std::int64_t steps_left) {
  const double seconds = std::max(1e-9, std::chrono::duration<double>(Clock::now() - since_).count());
  const double waited = seconds_waited - waited_before_;
  const double per_step = seconds / static_cast<double>(std::max<std::int64_t>(1, steps_));
  seconds_per_step_ = seconds_per_step_ == 0 ? per_step : 0.8 * seconds_per_step_ + 0.2 * per_step;
  nlohmann::json figures = {{"images_per_second", static_cast<double>(images_) / seconds},
                            {"data_wait_share", std::min(1.0, waited / seconds)},
                            {"seconds_left", seconds_per_step_ * static_cast<double>(steps_left)}};
  waited_before_ = seconds_waited;
  restart();
  return figures;
}

void RateClock::restart() {
  since_ = Clock::now();
  images_ = 0;
  steps_ = 0;
}

}  // namespace tessera::train
