#include "data/sampler.h"

#include <c10/util/Exception.h>

#include "core/error.h"
#include "core/random.h"

namespace tessera::data {

EpochSampler::EpochSampler(const SamplerOptions& options) : options_(options) {
  TORCH_CHECK(options.batch_size > 0, "batch_size must be positive, got ", options.batch_size);
  TORCH_CHECK(options.world_size > 0 && options.rank >= 0 && options.rank < options.world_size, "rank ",
              options.rank, " of ", options.world_size);
  const std::int64_t global_batch = options.batch_size * options.world_size;
  full_batches_ = options.samples / global_batch;
  if (!options.drop_last) last_batch_size_ = options.samples % global_batch / options.world_size;
  batches_ = full_batches_ + (last_batch_size_ > 0 ? 1 : 0);
  if (batches_ == 0) {
    fail("{} samples are too few for {}: a batch takes {} on each of {} ranks", options.samples,
         options.drop_last ? "one full batch (data.drop_last is true)" : "one sample on every rank",
         options.batch_size, options.world_size);
  }
}

PositionRange EpochSampler::positions(std::int64_t batch) const {
  TORCH_CHECK_INDEX(batch >= 0 && batch < batches_, "batch ", batch, " of ", batches_);
  const std::int64_t count = batch < full_batches_ ? options_.batch_size : last_batch_size_;
  return {batch * options_.batch_size * options_.world_size + options_.rank * count, count};
}

std::shared_ptr<const std::vector<std::int64_t>> EpochSampler::order(std::int64_t epoch) const {
  TORCH_CHECK(epoch >= 0, "epochs count from 0, got ", epoch);
  return std::make_shared<const std::vector<std::int64_t>>(random_permutation(
      options_.samples, options_.seed, RandomPurpose::kShuffle, static_cast<std::uint64_t>(epoch)));
}

}  // namespace tessera::data
