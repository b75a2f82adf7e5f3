#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace tessera {

/// Processors' worth of time that this process may use: those that it may run on (sched_getaffinity), or what
/// a control group's quota allows where that is less. `nproc` and LibTorch know of the first alone: in a
/// container that is given two of 64 processors by a quota they say 64.
struct ProcessorLimit {
  std::int64_t processors = 1;  ///< that the process may run on
  std::optional<double> quota;  ///< of processors' time, by the tightest control group around the process

  /// Threads that can be kept busy: the quota rounded up, at least 1.
  std::int64_t threads() const;
};

/// @param root  stands for "/" in tests: where /proc/self/cgroup, /proc/self/mountinfo and the control groups
/// are found
ProcessorLimit processor_limit(const std::filesystem::path& root = "/");

/// Gives LibTorch's operations as many threads as the quota allows, where there is one and the environment
/// (OMP_NUM_THREADS, MKL_NUM_THREADS) doesn't say how many. To be called before anything is computed.
void limit_threads_to_quota();

}  // namespace tessera
