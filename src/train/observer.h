#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>

namespace tessera::train {

/// What a run tells while it runs. The log file, metrics.jsonl and the progress line are observers; so would
/// be TensorBoard.
class Observer {
 public:
  virtual ~Observer() = default;

  /// A logged step: "step", "epoch", losses, learning rates, rates.
  virtual void on_step(const nlohmann::json& record) = 0;
  /// A validation: "step", "epoch" and the suite's figures.
  virtual void on_validation(const nlohmann::json& record) = 0;
  /// The run ends or is about to print something else.
  virtual void on_end() {}
};

}  // namespace tessera::train
