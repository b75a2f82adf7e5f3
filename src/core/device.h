#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <string>

namespace tessera {
struct RunConfig;
}

namespace tessera {

/// Where and in which precision a run computes: the one place that `run.device` and `run.precision` pass
/// through.
struct Compute {
  c10::Device device = c10::kCPU;
  /// float32, or bfloat16 for autocast products (parameters stay float32).
  c10::ScalarType dtype = c10::kFloat;

  std::string describe() const;  ///< "cpu, fp32, 2 threads"
};

/// auto takes the GPU where this build and machine have one, and bf16 on a GPU that computes in it, else
/// fp32. Sets the number of intra-op threads where run.threads is not 0.
/// @throws ConfigError where a GPU is asked for and there is none (the message says why)
Compute choose_compute(const RunConfig& run);

/// Autocast for a scope, restored on exit also by an exception; does nothing in float32.
class AutocastScope {
 public:
  explicit AutocastScope(const Compute& compute);
  ~AutocastScope();
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  Compute compute_;
  bool was_enabled_ = false;
  c10::ScalarType was_dtype_ = c10::kBFloat16;
};

}  // namespace tessera
