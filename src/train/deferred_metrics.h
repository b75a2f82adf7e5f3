#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tessera::train {

/// What one step wants to log: values that lie on the device and values that the host knows already.
struct StepRecord {
  std::int64_t step = 0;
  nlohmann::json host = nlohmann::json::object();
  std::vector<std::pair<std::string, at::Tensor>> device;  ///< 0-dim tensors
  std::vector<std::string> keys;                           ///< of the batch's samples, for an error message
};

/// A step's record with everything read back.
struct ReadRecord {
  std::int64_t step = 0;
  nlohmann::json values;
  std::vector<std::string> keys;
};

/// Reads metrics back one step late, so that the host never waits for the step that it has just queued: the
/// values go in one copy into pinned memory, and are looked at when the next step is on its way.
class DeferredMetrics {
 public:
  explicit DeferredMetrics(c10::Device device) : device_(device) {}

  /// Takes a step's record; returns the record before it, read, where there is one.
  std::optional<ReadRecord> push(StepRecord record);
  /// The record still in flight.
  std::optional<ReadRecord> flush();

 private:
  struct InFlight {
    StepRecord record;
    at::Tensor values;  ///< host memory, float64
    std::optional<c10::Event> copied;
  };

  c10::Device device_;
  std::optional<InFlight> pending_;
};

}  // namespace tessera::train
