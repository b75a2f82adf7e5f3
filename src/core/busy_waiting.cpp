#include "core/busy_waiting.h"

#include <dirent.h>
#include <fcntl.h>
#include <omp.h>
#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

namespace tessera {

namespace {

/// Long enough for several turns of the kernel's scheduler, short enough for programs that run for a second.
constexpr std::chrono::milliseconds kPeriod{50};
/// Reading costs some microseconds a thread: never more than this share of the time.
constexpr int kReadingShare = 200;

/// That this thread has used: unlike the clock's, it doesn't grow while the thread stands in line itself.
std::chrono::nanoseconds own_processor_time() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

/// While a thread of this class is there, OpenMP has more threads than there are processors.
class SleepingTeam {
 public:
  SleepingTeam() : thread_([this] { hold(); }) {}
  ~SleepingTeam() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ends_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  SleepingTeam(const SleepingTeam&) = delete;
  SleepingTeam& operator=(const SleepingTeam&) = delete;

  /// That it starts, its own among them.
  static int threads() { return omp_get_num_procs() + 2; }

 private:
  void hold() {
    // The team's threads stay asleep after the region until this thread, whose team it is, ends.
#pragma omp parallel num_threads(omp_get_num_procs() + 1)
    members_.fetch_add(1, std::memory_order_relaxed);  // a region without a body would be left out
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return ends_; });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool ends_ = false;
  std::atomic<int> members_{0};
  std::thread thread_;  // starts last, when the rest is there
};

/// Whether so many threads can be started beside those that there are. OpenMP ends the program where it can't
/// start one (a limit of a control group or of the user), so that this has to be known before.
bool can_start_threads(int count) {
  std::mutex mutex;
  std::condition_variable changed;
  bool ends = false;
  std::vector<std::thread> threads;
  bool started = true;
  try {
    for (int i = 0; i < count; ++i) {
      threads.emplace_back([&] {
        std::unique_lock<std::mutex> lock(mutex);
        changed.wait(lock, [&] { return ends; });
      });
    }
  } catch (const std::system_error&) {
    started = false;
  }
  {
    const std::lock_guard<std::mutex> lock(mutex);
    ends = true;
  }
  changed.notify_all();
  for (std::thread& thread : threads) thread.join();
  return started;
}

/// Threads that are started while this lives get no signals: those are for the threads that were there
/// before.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

std::optional<std::int64_t> time_in_line() {
  DIR* tasks = opendir("/proc/self/task");
  if (tasks == nullptr) return std::nullopt;
  std::int64_t sum = 0;
  bool any = false;
  while (const dirent* entry = readdir(tasks)) {
    if (entry->d_name[0] == '.') continue;
    const std::string name = std::string(entry->d_name) + "/schedstat";
    const int file = openat(dirfd(tasks), name.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) continue;  // a thread that has just ended
    std::array<char, 128> text{};
    const ssize_t size = read(file, text.data(), text.size() - 1);
    close(file);
    long long ran = 0, in_line = 0;
    if (size <= 0 || std::sscanf(text.data(), "%lld %lld", &ran, &in_line) != 2) continue;
    sum += in_line;
    any = true;
  }
  closedir(tasks);
  if (!any) return std::nullopt;
  return sum;
}

bool SharingDetector::update(std::int64_t in_line, std::int64_t period) {
  // One process that never sleeps keeps two thirds of a thread in line on two processors, and nearly a whole
  // one on more; on an idle machine it is a tenth at most, for the moments in which pictures are decoded.
  constexpr double kSharedFrom = 0.4, kAloneBelow = 0.2;
  constexpr double kSmoothing = 0.3;
  constexpr std::int64_t kSecond = 1'000'000'000, kLongest = 32 * kSecond;
  if (in_line < 0 || period <= 0) return shared_;  // a thread has ended and taken its time with it
  threads_in_line_ +=
      kSmoothing * (static_cast<double>(in_line) / static_cast<double>(period) - threads_in_line_);
  since_change_ += period;
  if (!shared_ && threads_in_line_ >= kSharedFrom) {
    // On many processors sleeping may end the line by itself: what comes back at once is left alone for
    // longer.
    const bool at_once = least_shared_ > 0 && since_change_ < kSecond;
    least_shared_ = at_once ? std::min(2 * least_shared_, kLongest) : kSecond;
    shared_ = true;
    since_change_ = 0;
  } else if (shared_ && threads_in_line_ < kAloneBelow && since_change_ >= least_shared_) {
    shared_ = false;
    since_change_ = 0;
  }
  return shared_;
}

BusyWaiting::BusyWaiting() {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  if (!time_in_line()) return;
  const SignalsBlocked blocked;
  watcher_ = std::thread([this] { watch(); });
}

BusyWaiting::~BusyWaiting() {
  if (!watcher_.joinable()) return;
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    ends_ = true;
  }
  changed_.notify_one();
  watcher_.join();
}

void BusyWaiting::watch() {
  SharingDetector detector;
  std::unique_ptr<SleepingTeam> team;
  std::int64_t before = time_in_line().value_or(0);
  auto then = std::chrono::steady_clock::now();
  std::chrono::nanoseconds pause = kPeriod;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!changed_.wait_for(lock, pause, [this] { return ends_; })) {
    const auto start = own_processor_time();
    const std::optional<std::int64_t> in_line = time_in_line();
    const auto now = std::chrono::steady_clock::now();
    if (!in_line) continue;
    const bool shared = detector.update(*in_line - before, std::chrono::nanoseconds(now - then).count());
    before = *in_line;
    then = now;
    if (shared && team == nullptr && !can_start_threads(SleepingTeam::threads()))
      return;  // it can't be helped
    if (shared != (team != nullptr)) team = shared ? std::make_unique<SleepingTeam>() : nullptr;
    lets_sleep_ = shared;
    pause = std::max<std::chrono::nanoseconds>(kPeriod, kReadingShare * (own_processor_time() - start));
  }
}

}  // namespace tessera
