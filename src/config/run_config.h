#pragma once

#include <cstdint>
#include <string>

#include "core/device.h"

namespace tessera {

struct ConfigRows;

struct RunConfig {
  std::string name = "stage1";
  std::string output_dir = "runs";
  std::string log_dir = "logs";
  std::int64_t seed = 0;
  DeviceChoice device = DeviceChoice::kAuto;
  PrecisionChoice precision = PrecisionChoice::kAuto;
  std::int64_t threads = 0;     ///< 0: as many as the machine gives
  std::int64_t log_every = 10;  ///< steps between logged metrics

  bool operator==(const RunConfig&) const = default;
};

/// The section's keys (core/config_rows.h).
ConfigRows config_rows(RunConfig& run);

}  // namespace tessera
