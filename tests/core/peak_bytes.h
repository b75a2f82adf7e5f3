#pragma once

#include <c10/core/Allocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <algorithm>
#include <cstdint>
#include <memory>

namespace tessera {

/// The most bytes of tensors on the CPU that this thread has had at once since it was put up.
class PeakBytes : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* /*place*/, std::int64_t change, std::size_t /*allocated*/,
                         std::size_t /*reserved*/, c10::Device /*device*/) override {
    bytes_ += static_cast<double>(change);
    peak_ = std::max(peak_, bytes_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  double peak() const { return peak_; }
  /// What is still there of what came while it was up.
  double now() const { return bytes_; }

 private:
  double bytes_ = 0, peak_ = 0;
};

/// Calls work() and says what it held at most, and what it left.
template <typename Work>
std::pair<double, double> peak_and_left_bytes(const Work& work) {
  const auto counter = std::make_shared<PeakBytes>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, counter);
  const auto result = work();  // held until both are read
  return {counter->peak(), counter->now()};
}

}  // namespace tessera
