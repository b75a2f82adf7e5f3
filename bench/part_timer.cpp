#include "bench/part_timer.h"

#include <ATen/SequenceNumber.h>
#include <ATen/record_function.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>

namespace tessera::bench {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Nodes made from this number on belong to this part.
struct Interval {
  std::uint64_t first;
  std::size_t part;
};

constexpr std::size_t kRest = 0;
constexpr std::size_t kGradientsKept = 1;

/// Callbacks are plain functions: what they write has to be reachable without an argument.
struct Record {
  std::vector<PartTime> parts = {{"(rest)"}, {"(gradients kept)"}};
  std::vector<std::size_t> open;  ///< scopes that are open, the innermost last
  std::vector<Interval> intervals;
  Clock::time_point since = Clock::now();

  std::size_t part(const std::string& name) {
    const auto found =
        std::find_if(parts.begin(), parts.end(), [&](const PartTime& part) { return part.name == name; });
    if (found != parts.end()) return static_cast<std::size_t>(found - parts.begin());
    parts.push_back({name});
    return parts.size() - 1;
  }

  std::size_t current() const { return open.empty() ? kRest : open.back(); }

  /// The innermost scope is about to change.
  void close_interval() {
    if (!open.empty()) parts[open.back()].forward += seconds_since(since);
  }
  void open_interval() {
    intervals.push_back({at::sequence_number::peek(), current()});
    since = Clock::now();
  }

  std::size_t part_of_node(std::int64_t number) const {
    // The nodes that accumulate into .grad have none.
    if (number < 0) return kGradientsKept;
    const auto next = std::upper_bound(
        intervals.begin(), intervals.end(), static_cast<std::uint64_t>(number),
        [](std::uint64_t value, const Interval& interval) { return value < interval.first; });
    return next == intervals.begin() ? kRest : std::prev(next)->part;
  }
};

std::unique_ptr<Record>& record() {
  static std::unique_ptr<Record> instance;
  return instance;
}

struct NodeStart : at::ObserverContext {
  Clock::time_point time = Clock::now();
};

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  if (function.scope() == at::RecordScope::USER_SCOPE) {
    Record& now = *record();
    now.close_interval();
    now.open.push_back(now.part(function.name()));
    now.open_interval();
    return nullptr;
  }
  return std::make_unique<NodeStart>();
}

void on_end(const at::RecordFunction& function, at::ObserverContext* context) {
  Record& now = *record();
  if (function.scope() == at::RecordScope::USER_SCOPE) {
    now.close_interval();
    if (!now.open.empty()) now.open.pop_back();
    now.open_interval();
    return;
  }
  const double seconds = seconds_since(static_cast<NodeStart*>(context)->time);
  now.parts[now.part_of_node(function.seqNr())].backward += seconds;
}

}  // namespace

PartTimer::PartTimer() {
  TORCH_CHECK(record() == nullptr, "one PartTimer at a time");
  record() = std::make_unique<Record>();
  callback_ = at::addThreadLocalCallback(
      at::RecordFunctionCallback(on_start, on_end)
          .scopes({at::RecordScope::USER_SCOPE, at::RecordScope::BACKWARD_FUNCTION}));
}

PartTimer::~PartTimer() {
  at::removeCallback(callback_);
  record().reset();
}

std::vector<PartTime> PartTimer::parts() const { return record()->parts; }

}  // namespace tessera::bench
