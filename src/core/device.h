#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <string>

namespace tessera {

enum class DeviceChoice { kAuto, kCpu, kCuda };
enum class PrecisionChoice { kAuto, kFp32, kBf16 };

/// Where and in which precision a run computes: the one place that these choices pass through.
struct Compute {
  c10::Device device = c10::kCPU;
  /// float32, or bfloat16 for autocast products (parameters stay float32).
  c10::ScalarType dtype = c10::kFloat;

  std::string describe() const;  ///< "cpu, fp32, 2 threads"
};

/// auto takes the GPU where this build and machine have one, and bf16 on a GPU that computes in it, else
/// fp32.
/// @param threads  of one operation; 0: as many as there are
/// @throws ConfigError where a GPU is asked for and there is none (the message says why)
Compute choose_compute(DeviceChoice device, PrecisionChoice precision, std::int64_t threads);

}  // namespace tessera
