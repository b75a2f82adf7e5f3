#pragma once

#include <ATen/core/Tensor.h>

#include "memory/episodic_memory.h"

namespace tessera::memory {

/// What an episode is trained on beside the reconstruction, as sums over queries and their number: over
/// micro-batches and ranks (Σ sum) / (Σ count). All 0-dim, of the reading's KL's dtype.
struct MemoryLosses {
  at::Tensor
      alignment_sum;  ///< Σ ‖z_r − z‖²/C: for codes of unit mean square, the share of the code that is missed
  at::Tensor kl_sum;  ///< Σ KL_w, nats
  at::Tensor count;   ///< queries, without gradient
};

/// @param reading of an episode
/// @param codes   [N, Q, C] the pairs' own codes, which the read-outs should equal
///
/// The codes are a target only: their gradient is stopped. With it, the cheapest way to agree would be to
/// shrink codes and read-outs alike, or to make all pairs one; as it is, read-outs move towards codes
/// (through the queries and through what was written), and codes of a fixed length (PairCode) can't be
/// shrunk. What keeps them apart is the reconstruction.
MemoryLosses memory_losses(const EpisodeReading& reading, const at::Tensor& codes);

}  // namespace tessera::memory
