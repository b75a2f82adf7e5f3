#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/logging.h"
#include "data/batch_pipeline.h"
#include "data/broken_samples.h"
#include "data/data_config.h"
#include "data/sampler.h"
#include "data/source.h"

namespace tessera::data {

/// A training batch: each image with the one of its captions that is drawn for this epoch.
struct Batch {
  at::Tensor pixels;                  ///< [B, 3, S, S] uint8, RGB, not normalised
  at::Tensor image_ids;               ///< [B] int64, image_id_number of the sample's image id
  std::vector<std::string> captions;  ///< B
  std::vector<std::string> keys;      ///< B
  std::int64_t index = 0;             ///< of the batch in its epoch
};

/// What a run's epochs are drawn from, and which part of them is this rank's.
struct TrainLoaderShare {
  std::uint64_t seed = 0;
  std::int64_t rank = 0;
  std::int64_t world_size = 1;
};

/// Training batches, prefetched. What a batch holds is a function of the data, the seed, the epoch and the
/// batch's number: neither the number of workers nor where an epoch was entered plays a part, and W ranks
/// read together what one rank with W times the batch reads. A broken sample's place is taken by the next
/// sound one of the epoch's order (after the last comes the first).
class TrainLoader {
 public:
  /// @throws Error where the dataset is too small for one batch, or too much of it is incomplete
  TrainLoader(std::shared_ptr<const Source> source, const DataConfig& config, const TrainLoaderShare& share,
              const Logger& logger);

  /// Begins an epoch (counted from 0) at any of its batches; one under way is abandoned.
  void start_epoch(std::int64_t epoch, std::int64_t first_batch = 0);
  /// The next batch, or nothing at the epoch's end.
  /// @throws Error where more than max_broken_fraction of the samples seen are broken
  std::optional<Batch> next();

  std::int64_t batches_per_epoch() const { return sampler_.batches(); }
  /// Total time that next() waited for data, in seconds.
  double seconds_waited() const { return pipeline_.seconds_waited(); }
  /// Distinct samples that could not be used so far.
  std::int64_t broken() const { return broken_.count(); }

 private:
  std::shared_ptr<const Source> source_;
  AugmentationConfig augmentation_;
  std::uint64_t seed_;
  EpochSampler sampler_;
  BrokenSampleCount broken_;
  BatchPipeline pipeline_;  // last: its threads end before anything that they read
};

/// A batch for evaluation: each image with all of its captions.
struct EvalBatch {
  at::Tensor pixels;     ///< [B, 3, S, S] uint8, RGB, not normalised
  at::Tensor image_ids;  ///< [B] int64
  std::vector<std::vector<std::string>> captions;
  std::vector<std::string> keys;
  std::vector<std::int64_t> indices;  ///< of the samples in the dataset, for what else it knows of them
};

/// Every sample once, in the dataset's order, through the evaluation transform. Broken samples are left out.
class EvalLoader {
 public:
  /// @param batch_size  in place of that of `config`, which is for training
  /// @throws Error where too much of the dataset is incomplete
  EvalLoader(std::shared_ptr<const Source> source, const DataConfig& config, std::int64_t batch_size,
             const Logger& logger);

  /// Begins (again) with the first sample.
  void start();
  /// The next batch (never an empty one), or nothing at the end.
  /// @throws Error where more than max_broken_fraction of the samples seen are broken
  std::optional<EvalBatch> next();

  double seconds_waited() const { return pipeline_.seconds_waited(); }
  std::int64_t broken() const { return broken_.count(); }

 private:
  std::shared_ptr<const Source> source_;
  std::int64_t batch_size_;
  BrokenSampleCount broken_;
  BatchPipeline pipeline_;  // last: its threads end before anything that they read
};

}  // namespace tessera::data
