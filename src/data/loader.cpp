#include "data/loader.h"

#include <ATen/ops/tensor.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "data/image_transform.h"

namespace tessera::data {
namespace {

/// The sample's row without captions chosen: key, ids, all captions; its image goes to `pixels`.
template <typename Transform>
BatchRow load_row(const Source& source, std::int64_t index, const Transform& transform) {
  Sample sample = source.read(index);
  const std::string name = fmt::format("{}: {}", sample.file, sample.key);
  transform(decode_image(sample.image, name), name);
  BatchRow row;
  row.filled = true;
  row.index = index;
  row.image_id = image_id_number(sample.image_id);
  row.key = std::move(sample.key);
  row.captions = std::move(sample.captions);
  return row;
}

/// What it takes to make a training row, shared by the workers of an epoch.
struct TrainingRows {
  std::shared_ptr<const Source> source;
  std::shared_ptr<const std::vector<std::int64_t>> order;
  std::uint64_t epoch;
  std::uint64_t seed;
  AugmentationConfig augmentation;
  std::int64_t longest_search;

  CounterRandom random(RandomPurpose purpose, std::int64_t index) const {
    return {seed, purpose, epoch, static_cast<std::uint64_t>(index)};
  }

  BatchRow load(std::int64_t index, const at::Tensor& pixels) const {
    BatchRow row = load_row(*source, index, [&](const cv::Mat& image, const std::string& name) {
      if (!augmentation.random_resized_crop) return resize_and_centre_crop(image, pixels, name);
      CounterRandom draw = random(RandomPurpose::kAugmentation, index);
      resized_crop(image, random_crop_box(image.rows, image.cols, augmentation, draw), pixels);
    });
    CounterRandom draw = random(RandomPurpose::kCaption, index);
    std::swap(row.captions.front(), row.captions[draw.below(row.captions.size())]);
    row.captions.resize(1);
    return row;
  }

  /// The sample at a position, or the next sound one after it.
  BatchRow operator()(std::int64_t position, const at::Tensor& pixels) const {
    const auto size = static_cast<std::int64_t>(order->size());
    std::vector<BrokenSample> broken;
    for (std::int64_t step = 0; step < std::min(size, longest_search); ++step) {
      const std::int64_t index = (*order)[static_cast<std::size_t>((position + step) % size)];
      try {
        BatchRow row = load(index, pixels);
        row.broken = std::move(broken);
        return row;
      } catch (const Error& error) {
        broken.push_back({index, source->key(index), error.what()});
      }
    }
    fail("{} broken samples one after another, no sound one to take their place; the first is '{}': {}",
         broken.size(), broken.front().key, broken.front().reason);
  }
};

at::Tensor image_ids_of(const std::vector<BatchRow>& rows) {
  std::vector<std::int64_t> ids;
  ids.reserve(rows.size());
  for (const auto& row : rows) ids.push_back(row.image_id);
  return at::tensor(ids, at::kLong);
}

SamplerOptions sampler_options(const Source& source, const DataConfig& config,
                               const TrainLoaderShare& share) {
  return {source.size(), config.batch_size, config.drop_last, share.seed, share.rank, share.world_size};
}

}  // namespace

TrainLoader::TrainLoader(std::shared_ptr<const Source> source, const DataConfig& config,
                         const TrainLoaderShare& share, const Logger& logger)
    : source_(std::move(source)),
      augmentation_(config.augmentation),
      seed_(share.seed),
      sampler_(sampler_options(*source_, config, share)),
      broken_(*source_, config.max_broken_fraction, logger),
      pipeline_({config.image_size, config.workers, config.prefetch_batches}) {}

void TrainLoader::start_epoch(std::int64_t epoch, std::int64_t first_batch) {
  TORCH_CHECK_INDEX(first_batch >= 0 && first_batch <= batches_per_epoch(), "batch ", first_batch, " of ",
                    batches_per_epoch());
  BatchPlan plan;
  plan.first_batch = first_batch;
  plan.end_batch = batches_per_epoch();
  plan.positions = [sampler = sampler_](std::int64_t batch) { return sampler.positions(batch); };
  plan.fill = TrainingRows{source_, sampler_.order(epoch), static_cast<std::uint64_t>(epoch),
                           seed_,   augmentation_,         broken_.longest_search()};
  pipeline_.start(std::move(plan));
}

std::optional<Batch> TrainLoader::next() {
  std::optional<FilledBatch> filled = pipeline_.next();
  if (!filled) return std::nullopt;
  broken_.account(filled->rows);
  Batch batch;
  batch.pixels = std::move(filled->pixels);
  batch.image_ids = image_ids_of(filled->rows);
  for (auto& row : filled->rows) {
    batch.captions.push_back(std::move(row.captions.front()));
    batch.keys.push_back(std::move(row.key));
  }
  batch.index = filled->index;
  return batch;
}

EvalLoader::EvalLoader(std::shared_ptr<const Source> source, const DataConfig& config,
                       std::int64_t batch_size, const Logger& logger)
    : source_(std::move(source)),
      batch_size_(batch_size),
      broken_(*source_, config.max_broken_fraction, logger),
      pipeline_({config.image_size, config.workers, config.prefetch_batches}) {
  TORCH_CHECK(batch_size > 0, "batch_size must be positive, got ", batch_size);
  start();
}

void EvalLoader::start() {
  const std::int64_t size = source_->size();
  const std::int64_t batch_size = batch_size_;
  BatchPlan plan;
  plan.end_batch = (size + batch_size - 1) / batch_size;
  plan.positions = [size, batch_size](std::int64_t batch) {
    return PositionRange{batch * batch_size, std::min(batch_size, size - batch * batch_size)};
  };
  plan.fill = [source = source_](std::int64_t index, const at::Tensor& pixels) {
    try {
      return load_row(*source, index, [&](const cv::Mat& image, const std::string& name) {
        resize_and_centre_crop(image, pixels, name);
      });
    } catch (const Error& error) {
      BatchRow row;
      row.broken.push_back({index, source->key(index), error.what()});
      return row;
    }
  };
  pipeline_.start(std::move(plan));
}

std::optional<EvalBatch> EvalLoader::next() {
  while (std::optional<FilledBatch> filled = pipeline_.next()) {
    broken_.account(filled->rows);
    EvalBatch batch;
    std::vector<std::int64_t> used;
    std::vector<std::int64_t> ids;
    for (std::size_t i = 0; i < filled->rows.size(); ++i) {
      BatchRow& row = filled->rows[i];
      if (!row.filled) continue;
      used.push_back(static_cast<std::int64_t>(i));
      ids.push_back(row.image_id);
      batch.indices.push_back(row.index);
      batch.captions.push_back(std::move(row.captions));
      batch.keys.push_back(std::move(row.key));
    }
    if (used.empty()) continue;
    batch.image_ids = at::tensor(ids, at::kLong);
    const bool all = used.size() == filled->rows.size();
    batch.pixels = all ? filled->pixels : filled->pixels.index_select(0, at::tensor(used, at::kLong));
    return batch;
  }
  return std::nullopt;
}

}  // namespace tessera::data
