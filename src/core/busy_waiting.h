#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>
#include <thread>

namespace tessera {

/// For how long the threads of this process have stood in line for a processor since they began, nanoseconds
/// summed over the threads that there are. Of /proc/self/task/*/schedstat (proc(5)); empty where the kernel
/// doesn't tell.
std::optional<std::int64_t> time_in_line();

/// Decides from how many threads stand in line whether somebody else wants the processors. Apart from the
/// clock, so that it can be tested.
class SharingDetector {
 public:
  /// @param in_line  what the threads' time in line has grown by within the period, nanoseconds
  /// @param period   nanoseconds
  /// @return whether the processors are shared with somebody
  bool update(std::int64_t in_line, std::int64_t period);

 private:
  bool shared_ = false;
  double threads_in_line_ = 0;     ///< smoothed
  std::int64_t since_change_ = 0;  ///< nanoseconds
  std::int64_t least_shared_ = 0;  ///< for how long at least, nanoseconds
};

/// Lets OpenMP's waiting threads sleep while somebody else wants the processors that they would spin on.
///
/// A step of training has very many short parallel regions, and at the end of each libgomp lets a thread spin
/// for up to 3 ms until the others arrive. On an idle machine that is right: sleeping and waking would cost
/// more. Beside another process it is ruin: the thread that is waited for stands in line behind the one that
/// waits for it.
///
/// libgomp spins 3,000 times less long while its threads are more than the processors ("throttled":
/// GOMP_SPINCOUNT in its manual). So, while the threads of this process have to stand in line for processors,
/// a thread of this class holds a sleeping OpenMP team, which makes them more; when there is no line any
/// more, the team goes. What is computed, and on how many threads, stays the same.
class BusyWaiting {
 public:
  /// Starts to watch. Does nothing where the environment says how to wait (OMP_WAIT_POLICY, GOMP_SPINCOUNT),
  /// or where the kernel doesn't say how long threads stood in line.
  BusyWaiting();
  ~BusyWaiting();
  BusyWaiting(const BusyWaiting&) = delete;
  BusyWaiting& operator=(const BusyWaiting&) = delete;

  bool watches() const { return watcher_.joinable(); }
  /// Whether waiting threads sleep at present.
  bool lets_sleep() const { return lets_sleep_; }

 private:
  void watch();

  std::mutex mutex_;
  std::condition_variable changed_;
  bool ends_ = false;
  std::atomic<bool> lets_sleep_{false};
  std::thread watcher_;
};

}  // namespace tessera
