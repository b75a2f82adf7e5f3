#pragma once

#include <cstdint>

namespace tessera {
struct ConfigRows;
}

namespace tessera::memory {

struct MemoryConfig {
  std::int64_t slots = 256;      ///< K, fewer than code_size
  std::int64_t code_size = 384;  ///< C
  std::int64_t episode = 16;     ///< pairs written together, consecutive samples of the global order
  double noise = 1e-3;           ///< on codes when they are written and read in training
  double drop_text = 0.5;        ///< share of queries that are codes of the image alone
  double drop_image = 0.2;       ///< share of queries that are codes of the text alone
  double caption_share =
      0.25;  ///< share of the captions that see a read-out of an episode without their pair
  std::int64_t read_tokens = 4;  ///< tokens that a read-out becomes for the decoder

  bool operator==(const MemoryConfig&) const = default;
};

/// The section's keys (core/config_rows.h).
ConfigRows config_rows(MemoryConfig& memory);

}  // namespace tessera::memory
