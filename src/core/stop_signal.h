#pragma once

#include <array>
#include <csignal>

namespace tessera {

/// Turns the signals by which people, terminals and schedulers ask a program to end (SIGTERM, SIGINT, SIGHUP,
/// SIGUSR1, SIGUSR2, SIGXCPU) into a request that a loop sees between two of its steps. A second SIGINT ends
/// the process at once; the others are often sent twice, and go on being a request. A signal that the process
/// was started to ignore (nohup's SIGHUP) stays ignored. Meanwhile a reader of the output that goes away
/// (SIGPIPE) does not end the process either. What was before is back after destruction. One at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The signal that came, 0 for none.
  int received() const;

 private:
  static constexpr std::array kRequests = {SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, SIGXCPU};

  std::array<struct sigaction, kRequests.size()> before_{};
  struct sigaction pipe_before_ {};
};

}  // namespace tessera
