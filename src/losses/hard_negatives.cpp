#include "losses/hard_negatives.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/autocast.h"
#include "core/random.h"
#include "losses/contrastive.h"

namespace tessera::losses {

namespace {

/// [B, N + Q] bool: what can't be drawn for each row.
at::Tensor left_out(const at::Tensor& image_ids, const at::Tensor& batch_ids,
                    const std::optional<QueueView>& queue, const at::Tensor& counts) {
  const at::Tensor rows = image_ids.unsqueeze(1);
  const at::Tensor same_in_batch = rows == batch_ids;
  if (!queue) return same_in_batch;
  return at::cat({same_in_batch, (rows == queue->image_ids).logical_or(counts.logical_not())}, 1);
}

at::Tensor weights_of(const at::Tensor& similarity, const at::Tensor& temperature, const at::Tensor& left_out,
                      double uniform_share) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const at::Tensor logits = similarity / temperature.to(similarity.scalar_type());
  // Of a row that is left out as a whole, the softmax is NaN; the fill covers that too.
  const at::Tensor hard = logits.masked_fill(left_out, -kInfinity).softmax(1).masked_fill(left_out, 0);
  if (uniform_share == 0) return hard;
  const at::Tensor candidates = left_out.logical_not();
  return (1 - uniform_share) * hard +
         uniform_share * candidates / candidates.sum(1, /*keepdim=*/true).clamp_min(1);
}

at::Tensor draw(const at::Tensor& weights, const at::Tensor& noise) {
  TORCH_CHECK(noise.sizes() == weights.sizes(), "draw_hard_negatives: noise must be ", weights.sizes(),
              ", got ", noise.sizes());
  return (weights.log() + noise).argmax(1);
}

/// Σ over valid rows of the drawn candidate's similarity.
at::Tensor similarity_sum(const at::Tensor& similarity, const at::Tensor& index, const at::Tensor& valid) {
  return similarity.gather(1, index.unsqueeze(1)).squeeze(1).masked_fill(valid.logical_not(), 0).sum();
}

/// -log(-log(u)) of a uniform u of 32 bits that is neither 0 nor 1. In double, or u near 1, where the noise
/// is greatest, would have only few values.
float gumbel(std::uint32_t bits) {
  const double u = (static_cast<double>(bits) + 0.5) * 0x1p-32;
  return -std::log(static_cast<float>(-std::log(u)));
}

}  // namespace

NegativeWeights itm_weights(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                            const std::optional<QueueView>& queue, const at::Tensor& temperature,
                            Collectives& collectives, double uniform_share) {
  TORCH_CHECK(0 <= uniform_share && uniform_share <= 1, "itm_weights: uniform_share must be in [0, 1], got ",
              uniform_share);
  check_batch("itm_weights", image, text, image_ids, temperature);
  if (queue) check_queue("itm_weights", *queue, image.size(1));
  const c10::NoGradGuard no_grad;
  const NoAutocast no_autocast;

  const at::Tensor images = in_full_precision(image);
  const at::Tensor texts = in_full_precision(text);
  at::Tensor candidate_images = collectives.all_gather(images);
  at::Tensor candidate_texts = collectives.all_gather(texts);
  at::Tensor usable, filled;
  if (queue) {
    usable = queue->usable;
    filled = queue->filled_slots();
    candidate_images = with_queued(candidate_images, queue->image, usable);
    candidate_texts = with_queued(candidate_texts, queue->text, filled);
  }
  const at::Tensor batch_ids = collectives.all_gather(image_ids);
  NegativeWeights result;
  result.text_similarity = at::mm(images, candidate_texts.t());
  result.image_similarity = at::mm(texts, candidate_images.t());
  result.text_weights = weights_of(result.text_similarity, temperature,
                                   left_out(image_ids, batch_ids, queue, filled), uniform_share);
  result.image_weights = weights_of(result.image_similarity, temperature,
                                    left_out(image_ids, batch_ids, queue, usable), uniform_share);
  return result;
}

HardNegatives draw_hard_negatives(const NegativeWeights& weights, const at::Tensor& text_noise,
                                  const at::Tensor& image_noise) {
  const c10::NoGradGuard no_grad;
  return {draw(weights.text_weights, text_noise), draw(weights.image_weights, image_noise),
          (weights.text_weights > 0).any(1), (weights.image_weights > 0).any(1)};
}

at::Tensor candidate_rows(const at::Tensor& batch, const at::Tensor& queued, const at::Tensor& index) {
  if (!queued.defined()) return batch.index_select(0, index);
  TORCH_CHECK(batch.dim() >= 1 && batch.size(0) > 0 && queued.dim() == batch.dim() &&
                  queued.sizes().slice(1) == batch.sizes().slice(1),
              "candidate_rows: queued must be [Q, …] like the batch's ", batch.sizes(), ", got ",
              queued.sizes());
  const std::int64_t candidates = batch.size(0);
  // Each row is taken from both, the one that isn't meant from a place that is there.
  const at::Tensor from_batch = batch.index_select(0, index.clamp_max(candidates - 1));
  const at::Tensor from_queue =
      queued.index_select(0, (index - candidates).clamp_min(0)).to(batch.scalar_type());
  std::vector<std::int64_t> one_a_row(static_cast<std::size_t>(batch.dim()), 1);
  one_a_row[0] = index.size(0);
  return at::where((index < candidates).view(one_a_row), from_batch, from_queue);
}

at::Tensor itm_negative_similarity(const NegativeWeights& weights, const HardNegatives& negatives) {
  const at::Tensor sum =
      similarity_sum(weights.text_similarity, negatives.text_index, negatives.text_valid) +
      similarity_sum(weights.image_similarity, negatives.image_index, negatives.image_valid);
  return sum / (negatives.text_valid.sum() + negatives.image_valid.sum()).clamp_min(1);
}

at::Tensor gumbel_noise(std::uint64_t seed, NegativeDirection direction, std::int64_t step,
                        const NoiseShape& shape, c10::Device device) {
  TORCH_CHECK(step >= 0 && shape.first_global_row >= 0 && shape.rows >= 0 && shape.columns >= 0,
              "gumbel_noise: no argument may be negative, got step ", step, ", first_global_row ",
              shape.first_global_row, ", rows ", shape.rows, ", columns ", shape.columns);
  const at::Tensor noise = at::empty({shape.rows, shape.columns}, at::kFloat);
  float* values = noise.mutable_data_ptr<float>();
  at::parallel_for(0, shape.rows, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const auto global_row = static_cast<std::uint64_t>(shape.first_global_row + row);
      CounterRandom random(seed, RandomPurpose::kNegatives, static_cast<std::uint64_t>(step),
                           2 * global_row + static_cast<std::uint64_t>(direction));
      for (std::int64_t i = 0; i < shape.columns; ++i) values[row * shape.columns + i] = gumbel(random());
    }
  });
  return noise.to(device);
}

}  // namespace tessera::losses
