#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace tessera::data {

struct SamplerOptions {
  std::int64_t samples = 0;     ///< of the dataset
  std::int64_t batch_size = 0;  ///< per rank
  bool drop_last = false;       ///< leave out an epoch's last, short batch
  std::uint64_t seed = 0;
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
};

/// Positions first … first + count - 1 of an epoch's order.
struct PositionRange {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

/// Which samples an epoch shows, in which order, and which of them this rank reads. The order is a
/// permutation of the dataset, a function of (seed, epoch) alone. With B samples a rank and W ranks, global
/// batch b covers positions b·B·W … (b+1)·B·W - 1, and rank r its r-th slice of B: one rank with a batch of
/// B·W reads the same. A last, short batch is dropped, or split evenly, without the remainder (fewer than W
/// samples) that can't be.
class EpochSampler {
 public:
  /// @throws Error where there is not a single batch for every rank; c10::Error for senseless options
  explicit EpochSampler(const SamplerOptions& options);

  std::int64_t batches() const { return batches_; }

  /// This rank's positions in batch `batch` of an epoch.
  PositionRange positions(std::int64_t batch) const;

  /// Dataset indices by position.
  std::shared_ptr<const std::vector<std::int64_t>> order(std::int64_t epoch) const;

 private:
  SamplerOptions options_;
  std::int64_t full_batches_ = 0;
  std::int64_t last_batch_size_ = 0;  ///< per rank; 0 where there is no short batch
  std::int64_t batches_ = 0;
};

}  // namespace tessera::data
