#pragma once

#include <cstdint>
#include <string>
#include <unordered_set>
#include <vector>

#include "core/logging.h"
#include "data/batch_pipeline.h"
#include "data/source.h"

namespace tessera::data {

/// Counts a source's broken samples, logs each once with its key, and stops a run that meets too many.
class BrokenSampleCount {
 public:
  /// @param max_fraction  of the samples seen; judged over no fewer than 1,000, or the whole of a smaller
  ///                      source, so that one broken sample at the start of a large one stops nothing
  /// @throws Error where the source's incomplete samples alone are too many
  BrokenSampleCount(const Source& source, double max_fraction, Logger logger);

  /// @param rows  of a batch, in order
  /// @throws Error naming the first keys where more than max_fraction of the samples seen are broken
  void account(const std::vector<BatchRow>& rows);

  /// Distinct samples that could not be used, those that the source holds incomplete included.
  std::int64_t count() const { return incomplete_ + static_cast<std::int64_t>(indices_.size()); }
  /// How many broken samples in a row say that the data as a whole is unusable.
  std::int64_t longest_search() const;

 private:
  void check() const;
  std::string more_than_allowed() const;

  std::int64_t source_size_;
  std::int64_t incomplete_;
  double max_fraction_;
  Logger logger_;
  std::int64_t seen_ = 0;
  std::unordered_set<std::int64_t> indices_;
  std::vector<std::string> first_keys_;
};

}  // namespace tessera::data
