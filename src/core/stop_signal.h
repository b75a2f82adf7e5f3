#pragma once

namespace tessera {

/// Turns SIGTERM and SIGINT into a request that a loop sees between two of its steps; a second signal of
/// the same kind ends the process at once. The default handlers are back after destruction. One at a time.
class StopSignal {
 public:
  StopSignal();
  ~StopSignal();
  StopSignal(const StopSignal&) = delete;
  StopSignal& operator=(const StopSignal&) = delete;

  /// The signal that came, 0 for none.
  int received() const;
};

}  // namespace tessera
