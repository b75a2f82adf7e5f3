#include "core/stop_signal.h"

namespace tessera {

namespace {

// A handler may touch nothing but such a flag.
volatile std::sig_atomic_t received_signal = 0;

extern "C" void remember_signal(int signal) {
  received_signal = signal;
  // Who presses Ctrl-C again means it. A closed terminal's SIGHUP comes from the kernel and from the shell,
  // and schedulers signal a job's processes by more than one way: those would end the saving that they ask
  // for.
  if (signal == SIGINT) std::signal(SIGINT, SIG_DFL);
}

}  // namespace

StopSignal::StopSignal() {
  received_signal = 0;
  struct sigaction action = {};
  action.sa_handler = remember_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  for (std::size_t i = 0; i < kRequests.size(); ++i) {
    sigaction(kRequests[i], nullptr, &before_[i]);
    if (before_[i].sa_handler != SIG_IGN) sigaction(kRequests[i], &action, nullptr);
  }
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  sigemptyset(&ignore.sa_mask);
  sigaction(SIGPIPE, &ignore, &pipe_before_);
}

StopSignal::~StopSignal() {
  for (std::size_t i = 0; i < kRequests.size(); ++i) sigaction(kRequests[i], &before_[i], nullptr);
  sigaction(SIGPIPE, &pipe_before_, nullptr);
}

int StopSignal::received() const { return received_signal; }

}  // namespace tessera
