#pragma once

#include <string>
#include <vector>

namespace tessera::bench {

/// Seconds spent in one part of a step.
struct PartTime {
  std::string name;
  double forward = 0;
  double backward = 0;
};

/// Times the parts of a step, as the step names them by user scopes (RECORD_USER_SCOPE). What is inside an
/// inner scope counts for that one alone. A node of the backward pass counts for the part whose forward made
/// it: autograd numbers its nodes in the order of their making, so that each part owns intervals of these
/// numbers.
///
/// "(gradients kept)" are the writes into .grad; forward work outside every scope is "(rest)". The engine's
/// own time between nodes (sums of gradients that meet, among others) is in no part.
///
/// For work whose forward and backward run on the calling thread: the CPU. One at a time.
class PartTimer {
 public:
  PartTimer();
  ~PartTimer();
  PartTimer(const PartTimer&) = delete;
  PartTimer& operator=(const PartTimer&) = delete;

  /// In the order of their first appearance.
  std::vector<PartTime> parts() const;

 private:
  std::size_t callback_;
};

}  // namespace tessera::bench
