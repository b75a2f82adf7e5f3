#include "losses/maxsim_loss.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "losses/maxsim.h"
#include "tests/losses/fake_ranks.h"
#include "tests/losses/made_up.h"

namespace tessera::losses {
namespace {

struct ImagesAndTexts {
  at::Tensor patches, tokens, mask, image_ids, text_ids;
};

ImagesAndTexts make(std::vector<std::int64_t> image_ids, std::vector<std::int64_t> text_ids) {
  at::manual_seed(7);
  const auto images = static_cast<std::int64_t>(image_ids.size());
  const auto texts = static_cast<std::int64_t>(text_ids.size());
  const auto unit = [](at::IntArrayRef sizes) {
    return torch::nn::functional::normalize(at::randn(sizes, at::kDouble),
                                            torch::nn::functional::NormalizeFuncOptions().dim(-1));
  };
  const at::Tensor lengths = at::randint(2, 6, {texts}, at::kLong);
  return {unit({images, 6, 8}), unit({texts, 5, 8}), at::arange(5).unsqueeze(0) < lengths.unsqueeze(1),
          ids(std::move(image_ids)), ids(std::move(text_ids))};
}

LossValue loss_of(const ImagesAndTexts& batch, const at::Tensor& temperature = tau(0.1)) {
  SingleProcess single;
  return maxsim_loss(batch.patches, batch.tokens, batch.mask, batch.image_ids, batch.text_ids, temperature,
                     single);
}

/// One row's cross-entropy by loops.
double row_loss(const at::Tensor& scores, std::int64_t id, const at::Tensor& column_ids, double temperature) {
  double partition = 0, positives = 0, count = 0;
  for (std::int64_t c = 0; c < scores.size(0); ++c) {
    const double logit = scores[c].item<double>() / temperature;
    partition += std::exp(logit);
    if (column_ids[c].item<std::int64_t>() == id) {
      positives += logit;
      count += 1;
    }
  }
  return count == 0 ? 0 : std::log(partition) - positives / count;
}

double by_loops(const ImagesAndTexts& batch, double temperature) {
  const MaxSimScores scores = maxsim(batch.patches, batch.tokens, batch.mask);
  double of_images = 0, of_texts = 0;
  for (std::int64_t i = 0; i < batch.image_ids.size(0); ++i) {
    of_images += row_loss(scores.image_to_text[i], batch.image_ids[i].item<std::int64_t>(), batch.text_ids,
                          temperature);
  }
  for (std::int64_t j = 0; j < batch.text_ids.size(0); ++j) {
    of_texts += row_loss(scores.text_to_image.select(1, j), batch.text_ids[j].item<std::int64_t>(),
                         batch.image_ids, temperature);
  }
  return 0.5 * (of_images / static_cast<double>(batch.image_ids.size(0)) +
                of_texts / static_cast<double>(batch.text_ids.size(0)));
}

TEST(MaxSimLoss, EqualsTheFormulaByLoops) {
  for (const ImagesAndTexts& batch :
       {make({1, 2, 3}, {1, 2, 3}), make({1, 2, 1, 3}, {1, 2, 1, 3}), make({1, 2}, {2, 1, 1, 2, 2}),
        make({5}, {5}), make({1, 2, 9}, {1, 2, 8})}) {
    SCOPED_TRACE(batch.text_ids);
    for (const double temperature : {0.07, 1.0}) {
      EXPECT_NEAR(loss_of(batch, tau(temperature)).mean().item<double>(), by_loops(batch, temperature),
                  1e-12);
    }
  }
}

TEST(MaxSimLoss, CountsImages) { EXPECT_EQ(loss_of(make({1, 2}, {2, 1, 1})).count.item<double>(), 2); }

TEST(MaxSimLoss, TrainsTheTemperature) {
  const ImagesAndTexts batch = make({1, 2, 3}, {1, 2, 3});
  const at::Tensor temperature = tau(0.2).set_requires_grad(true);
  loss_of(batch, temperature).mean().backward();
  const double step = 1e-6;
  const double slope =
      (loss_of(batch, tau(0.2 + step)).mean() - loss_of(batch, tau(0.2 - step)).mean()).item<double>() /
      (2 * step);
  EXPECT_NEAR(temperature.grad().item<double>(), slope, 1e-6 * std::abs(slope) + 1e-7);
}

TEST(MaxSimLoss, ABatchOfOneImageGivesNoNan) {
  ImagesAndTexts batch = make({4, 4, 4}, {4, 4, 4});
  batch.patches.set_requires_grad(true);
  const LossValue value = loss_of(batch);
  value.mean().backward();
  EXPECT_TRUE(value.sum.isfinite().item<bool>());
  EXPECT_TRUE(batch.patches.grad().isfinite().all().item<bool>());
}

TEST(MaxSimLoss, TwoRanksEqualOneWithTheDoubleBatch) {
  const ImagesAndTexts batch = make({1, 2, 3, 3, 4, 1}, {1, 2, 3, 3, 4, 1});
  const at::Tensor patches = batch.patches.clone().set_requires_grad(true);
  const at::Tensor tokens = batch.tokens.clone().set_requires_grad(true);
  const at::Tensor whole = loss_of({patches, tokens, batch.mask, batch.image_ids, batch.text_ids}).mean();
  whole.backward();

  std::vector<std::vector<at::Tensor>> groups;
  for (const at::Tensor& all : {batch.patches, batch.tokens, batch.mask, batch.image_ids, batch.text_ids}) {
    groups.push_back({all.slice(0, 0, 3).clone(), all.slice(0, 3, 6).clone()});
  }
  for (const std::size_t group : {0u, 1u}) {
    for (at::Tensor& part : groups[group]) part.set_requires_grad(true);
  }
  at::Tensor sum = at::zeros({}, at::kDouble), count = at::zeros({}, at::kDouble);
  for (const std::size_t rank : {0u, 1u}) {
    FakeRanks ranks(static_cast<std::int64_t>(rank), groups);
    const LossValue part = maxsim_loss(groups[0][rank], groups[1][rank], groups[2][rank], groups[3][rank],
                                       groups[4][rank], tau(0.1), ranks);
    sum = sum + part.sum;
    count = count + part.count;
  }
  (sum / count).backward();
  EXPECT_NEAR((sum / count).item<double>(), whole.item<double>(), 1e-12);
  EXPECT_TRUE(at::allclose(at::cat({groups[0][0].grad(), groups[0][1].grad()}), patches.grad(), 0, 1e-12));
  EXPECT_TRUE(at::allclose(at::cat({groups[1][0].grad(), groups[1][1].grad()}), tokens.grad(), 0, 1e-12));
}

TEST(MaxSimLoss, WrongArgumentsAreRefused) {
  const ImagesAndTexts good = make({1, 2, 3}, {1, 2, 3});
  EXPECT_NO_THROW(loss_of(good));
  ImagesAndTexts bad = good;
  bad.image_ids = ids({1, 2});
  EXPECT_THROW(loss_of(bad), c10::Error);
  bad = good;
  bad.text_ids = good.text_ids.to(at::kInt);
  EXPECT_THROW(loss_of(bad), c10::Error);
  EXPECT_THROW(loss_of(good, at::ones({1}, at::kDouble)), c10::Error);
}

}  // namespace
}  // namespace tessera::losses
