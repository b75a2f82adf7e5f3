#include "losses/hard_negatives.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "tests/losses/fake_ranks.h"
#include "tests/losses/made_up.h"

namespace tessera::losses {
namespace {

NegativeWeights weights_of(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                           const std::optional<QueueView>& queue, double temperature = 0.1) {
  SingleProcess single;
  return itm_weights(image, text, image_ids, queue, tau(temperature), single);
}

struct Batch {
  at::Tensor image, text, image_ids;
};

Batch batch_of(std::vector<std::int64_t> image_ids) {
  const auto count = static_cast<std::int64_t>(image_ids.size());
  at::manual_seed(3 + count);
  return {unit_rows(count, 8), unit_rows(count, 8), ids(std::move(image_ids))};
}

QueueView queue_of(std::vector<std::int64_t> image_ids) {
  const auto slots = static_cast<std::int64_t>(image_ids.size());
  return {unit_rows(slots, 8), unit_rows(slots, 8), ids(std::move(image_ids)), at::ones({slots}, at::kBool)};
}

HardNegatives draw(const NegativeWeights& weights, std::int64_t step, std::int64_t first_row = 0,
                   std::uint64_t seed = 11) {
  const NoiseShape shape{first_row, weights.text_weights.size(0), weights.text_weights.size(1)};
  return draw_hard_negatives(weights, gumbel_noise(seed, NegativeDirection::kText, step, shape, at::kCPU),
                             gumbel_noise(seed, NegativeDirection::kImage, step, shape, at::kCPU));
}

TEST(ItmWeights, MixInUniformDraws) {
  const Batch batch = batch_of({1, 2, 2, 3});
  const QueueView queue = queue_of({2, 9, 1});
  SingleProcess single;
  const auto mixed = [&](double share, double temperature) {
    return itm_weights(batch.image, batch.text, batch.image_ids, queue, tau(temperature), single, share);
  };
  const NegativeWeights hard = weights_of(batch.image, batch.text, batch.image_ids, queue);
  const NegativeWeights half = mixed(0.5, 0.1);
  const at::Tensor candidates =
      (batch.image_ids.unsqueeze(1) != at::cat({batch.image_ids, queue.image_ids})).to(at::kDouble);
  const at::Tensor uniform = candidates / candidates.sum(1, true);
  EXPECT_TRUE(at::allclose(half.text_weights, 0.5 * hard.text_weights + 0.5 * uniform));
  EXPECT_TRUE(at::allclose(half.image_weights, 0.5 * hard.image_weights + 0.5 * uniform));
  // Also of candidates whose softmax is too small to be told from 0.
  EXPECT_TRUE(at::allclose(mixed(1, 1e-3).text_weights, uniform));
  EXPECT_THROW(mixed(1.5, 0.1), c10::Error);
}

TEST(ItmWeights, ByUniformSharesOfARowWithoutCandidatesAreZero) {
  const Batch batch = batch_of({4, 4, 4});
  SingleProcess single;
  const NegativeWeights weights =
      itm_weights(batch.image, batch.text, batch.image_ids, std::nullopt, tau(0.1), single, 0.5);
  EXPECT_TRUE(at::equal(weights.text_weights, at::zeros_like(weights.text_weights)));
}

TEST(ItmWeights, AreASoftmaxOverTheOthers) {
  const Batch batch = batch_of({1, 2, 2, 3});
  const QueueView queue = queue_of({2, 9, 1});
  const NegativeWeights weights = weights_of(batch.image, batch.text, batch.image_ids, queue);
  ASSERT_EQ(weights.text_weights.sizes(), (at::IntArrayRef{4, 7}));
  EXPECT_TRUE(at::allclose(weights.text_weights.sum(1), at::ones({4}, at::kDouble)));
  EXPECT_TRUE(at::allclose(weights.image_weights.sum(1), at::ones({4}, at::kDouble)));
  const at::Tensor same = batch.image_ids.unsqueeze(1) == at::cat({batch.image_ids, queue.image_ids});
  for (const at::Tensor& each : {weights.text_weights, weights.image_weights}) {
    EXPECT_TRUE(at::equal(each == 0, same)) << "weight 0 for the row's own image, and only there";
  }
  // Ratios of weights are those of exp(similarity / τ), the text's own direction for each.
  const at::Tensor texts = at::cat({batch.text, queue.text}), images = at::cat({batch.image, queue.image});
  const double text_ratio =
      std::log((weights.text_weights[0][1] / weights.text_weights[0][5]).item<double>());
  EXPECT_NEAR(text_ratio, (batch.image[0].dot(texts[1] - texts[5]) / 0.1).item<double>(), 1e-9);
  const double image_ratio =
      std::log((weights.image_weights[3][0] / weights.image_weights[3][4]).item<double>());
  EXPECT_NEAR(image_ratio, (batch.text[3].dot(images[0] - images[4]) / 0.1).item<double>(), 1e-9);
}

TEST(ItmWeights, CarryNoGradient) {
  const Batch batch = batch_of({1, 2, 3});
  const at::Tensor image = batch.image.clone().set_requires_grad(true);
  const NegativeWeights weights = weights_of(image, batch.text, batch.image_ids, std::nullopt);
  EXPECT_FALSE(weights.text_weights.requires_grad());
  EXPECT_FALSE(weights.image_similarity.requires_grad());
}

/// A stale slot's text is encoded again, so it may be drawn; its image is as old as it is, so it may not.
TEST(ItmWeights, StaleImagesAreNeverDrawnStaleTextsCanBe) {
  const Batch batch = batch_of({1, 2, 3});
  QueueView queue = queue_of({7, 8, 9, 10});
  queue.usable = flags({1, 0, 0, 0});
  queue.filled = flags({1, 1, 1, 0});
  // What stands in slots that don't count must not matter.
  queue.image.slice(0, 1).fill_(std::nan(""));
  queue.text[3].fill_(std::numeric_limits<double>::infinity());
  const NegativeWeights weights = weights_of(batch.image, batch.text, batch.image_ids, queue, 10);
  EXPECT_TRUE(at::equal((weights.text_weights > 0).all(0), flags({0, 0, 0, 1, 1, 1, 0})));
  EXPECT_TRUE(at::equal((weights.image_weights > 0).any(0), flags({1, 1, 1, 1, 0, 0, 0})));
  EXPECT_TRUE(at::allclose(weights.image_weights.sum(1), at::ones({3}, at::kDouble)));
  std::int64_t stale_texts = 0;
  for (std::int64_t step = 0; step < 50; ++step) {
    const HardNegatives drawn = draw(weights, step);
    EXPECT_LE(drawn.image_index.max().item<std::int64_t>(), 3);
    EXPECT_LE(drawn.text_index.max().item<std::int64_t>(), 5);
    stale_texts += (drawn.text_index >= 4).sum().item<std::int64_t>();
  }
  EXPECT_GT(stale_texts, 0);
}

TEST(ItmWeights, ABatchOfOneImageGivesZerosAndNothingValid) {
  const Batch batch = batch_of({4, 4, 4});
  for (const std::optional<QueueView>& queue :
       {std::optional<QueueView>(), std::optional(queue_of({4, 4}))}) {
    const NegativeWeights weights = weights_of(batch.image, batch.text, batch.image_ids, queue);
    EXPECT_EQ(weights.text_weights.count_nonzero().item<int>(), 0);
    EXPECT_EQ(weights.image_weights.count_nonzero().item<int>(), 0);
    const HardNegatives drawn = draw(weights, 1);
    EXPECT_FALSE(drawn.text_valid.any().item<bool>());
    EXPECT_FALSE(drawn.image_valid.any().item<bool>());
    EXPECT_EQ(drawn.text_index.count_nonzero().item<int>(), 0);
    EXPECT_EQ(itm_negative_similarity(weights, drawn).item<double>(), 0);
  }
}

TEST(ItmWeights, LowTemperaturesStayFinite) {
  const Batch batch = batch_of({1, 2, 3});
  const NegativeWeights weights =
      weights_of(batch.image.to(at::kFloat), batch.text.to(at::kFloat), batch.image_ids, std::nullopt, 1e-4);
  EXPECT_EQ(weights.text_weights.scalar_type(), at::kFloat);
  EXPECT_TRUE(at::allclose(weights.text_weights.sum(1), at::ones({3})));
  EXPECT_TRUE(draw(weights, 0).text_valid.all().item<bool>());
}

TEST(ItmWeights, WrongShapesAndTypesAreRefused) {
  const Batch batch = batch_of({1, 2, 3});
  EXPECT_THROW(weights_of(batch.image, unit_rows(4, 8), batch.image_ids, std::nullopt), c10::Error);
  EXPECT_THROW(weights_of(batch.image, batch.text, ids({1, 2}), std::nullopt), c10::Error);
  QueueView queue = queue_of({5, 6});
  queue.filled = at::ones({3}, at::kBool);
  EXPECT_THROW(weights_of(batch.image, batch.text, batch.image_ids, queue), c10::Error);
  const NegativeWeights weights = weights_of(batch.image, batch.text, batch.image_ids, std::nullopt);
  EXPECT_THROW(draw_hard_negatives(weights, at::zeros({3, 4}), at::zeros({3, 3})), c10::Error);
}

/// χ² of the frequencies of each row's draws against its weights. 99.9 % quantiles of the χ² distribution;
/// the seed is fixed, so this passes always or never.
TEST(DrawHardNegatives, FrequenciesMatchTheWeights) {
  const Batch batch = batch_of({1, 2, 3, 4});
  const NegativeWeights weights =
      weights_of(batch.image, batch.text, batch.image_ids, queue_of({5, 6, 7}), 0.5);
  const std::int64_t draws = 6000, candidates = 7;
  at::Tensor texts = at::zeros({4, candidates}, at::kDouble), images = at::zeros_like(texts);
  const at::Tensor ones = at::ones({4, 1}, at::kDouble);
  for (std::int64_t step = 0; step < draws; ++step) {
    const HardNegatives drawn = draw(weights, step);
    texts.scatter_add_(1, drawn.text_index.unsqueeze(1), ones);
    images.scatter_add_(1, drawn.image_index.unsqueeze(1), ones);
  }
  const double quantile = 20.52;  // five degrees of freedom: six candidates a row
  for (const auto& [found, expected] :
       {std::pair(texts, weights.text_weights), {images, weights.image_weights}}) {
    EXPECT_EQ(found.masked_select(expected == 0).sum().item<double>(), 0);
    const at::Tensor mean = expected * static_cast<double>(draws);
    ASSERT_GT(mean.masked_select(expected > 0).min().item<double>(), 5);
    const at::Tensor chi_squared = ((found - mean).pow(2) / mean.clamp_min(1)).sum(1);
    EXPECT_LT(chi_squared.max().item<double>(), quantile) << chi_squared;
  }
  // The two directions and the rows draw independently: matching frequencies alone would allow one stream.
  EXPECT_FALSE(at::allclose(texts, images));
}

TEST(DrawHardNegatives, TwoRanksDrawWhatOneDraws) {
  const Batch batch = batch_of({1, 2, 3, 3, 4, 5});
  const QueueView queue = queue_of({8, 9, 3});
  const HardNegatives whole = draw(weights_of(batch.image, batch.text, batch.image_ids, queue, 1), 17);
  std::vector<std::vector<at::Tensor>> groups;
  for (const at::Tensor& all : {batch.image, batch.text, batch.image_ids}) {
    groups.push_back({all.slice(0, 0, 3).clone(), all.slice(0, 3, 6).clone()});
  }
  std::vector<at::Tensor> texts, images;
  for (const std::size_t rank : {0u, 1u}) {
    FakeRanks ranks(static_cast<std::int64_t>(rank), groups);
    const NegativeWeights weights =
        itm_weights(groups[0][rank], groups[1][rank], groups[2][rank], queue, tau(1), ranks);
    const HardNegatives part = draw(weights, 17, static_cast<std::int64_t>(3 * rank));
    texts.push_back(part.text_index);
    images.push_back(part.image_index);
  }
  EXPECT_TRUE(at::equal(at::cat(texts), whole.text_index));
  EXPECT_TRUE(at::equal(at::cat(images), whole.image_index));
}

TEST(NegativeSimilarity, IsTheMeanOverTheDrawn) {
  const Batch batch = batch_of({1, 2, 2});
  const NegativeWeights weights = weights_of(batch.image, batch.text, batch.image_ids, std::nullopt);
  const HardNegatives drawn{ids({1, 0, 0}), ids({2, 0, 0}), flags({1, 0, 1}), flags({1, 1, 0})};
  const at::Tensor expected = (batch.image[0].dot(batch.text[1]) + batch.image[2].dot(batch.text[0]) +
                               batch.text[0].dot(batch.image[2]) + batch.text[1].dot(batch.image[0])) /
                              4;
  EXPECT_NEAR(itm_negative_similarity(weights, drawn).item<double>(), expected.item<double>(), 1e-12);
}

TEST(GumbelNoise, HasTheDistributionsMomentsAndStaysFinite) {
  const at::Tensor noise = gumbel_noise(1, NegativeDirection::kText, 0, {0, 64, 4000}, at::kCPU);
  EXPECT_TRUE(noise.isfinite().all().item<bool>());
  EXPECT_NEAR(noise.mean().item<double>(), 0.5772, 0.01);
  EXPECT_NEAR(noise.std().item<double>(), 1.2825, 0.01);
}

TEST(GumbelNoise, IsAFunctionOfSeedDirectionStepAndRow) {
  const auto noise = [](std::uint64_t seed, NegativeDirection direction, std::int64_t step,
                        std::int64_t row) {
    return gumbel_noise(seed, direction, step, {row, 1, 6}, at::kCPU);
  };
  const at::Tensor base = noise(1, NegativeDirection::kText, 2, 3);
  EXPECT_TRUE(at::equal(base, noise(1, NegativeDirection::kText, 2, 3)));
  EXPECT_TRUE(at::equal(base[0], gumbel_noise(1, NegativeDirection::kText, 2, {0, 5, 6}, at::kCPU)[3]));
  for (const at::Tensor& other :
       {noise(2, NegativeDirection::kText, 2, 3), noise(1, NegativeDirection::kImage, 2, 3),
        noise(1, NegativeDirection::kText, 3, 3), noise(1, NegativeDirection::kText, 2, 4)}) {
    EXPECT_FALSE(at::equal(base, other));
  }
  EXPECT_THROW(gumbel_noise(1, NegativeDirection::kText, -1, {0, 1, 1}, at::kCPU), c10::Error);
}

/// What candidate_rows stands for, written out.
at::Tensor rows_of_all(const at::Tensor& batch, const at::Tensor& queued, const at::Tensor& index) {
  const at::Tensor all = queued.defined() ? at::cat({batch, queued.to(batch.scalar_type())}) : batch;
  return all.index_select(0, index);
}

TEST(CandidateRows, AreThoseOfBatchAndQueueTogetherBitForBit) {
  at::manual_seed(5);
  const at::Tensor queued = at::randn({11, 3, 4}).to(at::kBFloat16);
  const at::Tensor weights = at::randn({9, 3, 4});
  // Ends, repeated rows of either side, and none of one of them.
  for (const at::Tensor& index : {ids({0, 4, 5, 15, 4, 4, 2, 10, 15}), ids({1, 1, 1, 0, 4, 3, 2, 1, 0}),
                                  ids({5, 6, 7, 15, 15, 8, 9, 10, 5})}) {
    for (const auto dtype : {at::kFloat, at::kBFloat16, at::kDouble}) {
      std::vector<at::Tensor> rows, gradients;
      const at::Tensor values = at::randn({5, 3, 4}).to(dtype);
      for (const auto& select : {rows_of_all, candidate_rows}) {
        const at::Tensor batch = values.clone().set_requires_grad(true);
        rows.push_back(select(batch, queued, index));
        (rows.back() * weights).sum().backward();
        gradients.push_back(batch.grad());
      }
      EXPECT_EQ(rows[1].scalar_type(), dtype);
      EXPECT_TRUE(at::equal(rows[0], rows[1])) << dtype;
      EXPECT_TRUE(at::equal(gradients[0], gradients[1])) << dtype;
    }
  }
}

TEST(CandidateRows, NumbersAndTheBatchAlone) {
  const at::Tensor batch = at::arange(6, at::kLong).view({3, 2}), queued = batch + 100;
  const at::Tensor index = ids({5, 0, 2, 3});
  EXPECT_TRUE(at::equal(candidate_rows(batch, queued, index), rows_of_all(batch, queued, index)));
  EXPECT_TRUE(at::equal(candidate_rows(batch, {}, ids({2, 2})), rows_of_all(batch, {}, ids({2, 2}))));
  EXPECT_THROW(candidate_rows(batch, at::zeros({4, 3}, at::kLong), index), c10::Error);
}

TEST(CandidateRows, OfTheQueueThatAreNotDrawnHaveNoEffect) {
  const at::Tensor batch = at::ones({2, 3}).set_requires_grad(true);
  at::Tensor queued = at::full({4, 3}, std::numeric_limits<float>::quiet_NaN());
  queued[2] = 7;
  const at::Tensor rows = candidate_rows(batch, queued, ids({4, 1, 0}));
  EXPECT_TRUE(at::equal(rows, at::tensor({7, 7, 7, 1, 1, 1, 1, 1, 1}).view({3, 3}).to(at::kFloat)));
  rows.sum().backward();
  EXPECT_TRUE(at::equal(batch.grad(), at::ones({2, 3})));
}

}  // namespace
}  // namespace tessera::losses
