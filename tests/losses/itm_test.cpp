#include "losses/itm.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "tests/losses/made_up.h"

namespace tessera::losses {
namespace {

/// Two pairs, four candidates of which two are the batch's.
HardNegatives all_valid() { return {ids({1, 3}), ids({2, 0}), flags({1, 1}), flags({1, 1})}; }

void expect_accuracy(const Accuracy& found, double correct, double count) {
  EXPECT_EQ(found.correct.item<double>(), correct);
  EXPECT_EQ(found.count.item<double>(), count);
}

TEST(ItmLoss, IsTheCrossEntropyOfAllPairs) {
  at::manual_seed(1);
  const at::Tensor logits = at::randn({6, 2}, at::kDouble).set_requires_grad(true);
  const ItmLossValue value = itm_loss(logits, all_valid(), 2);
  const at::Tensor expected = at::cross_entropy_loss(logits, ids({1, 1, 0, 0, 0, 0}));
  EXPECT_NEAR(value.mean().item<double>(), expected.item<double>(), 1e-12);
  EXPECT_EQ(value.count.item<double>(), 6);
  const auto gradient = torch::autograd::grad({value.mean()}, {logits})[0];
  EXPECT_TRUE(at::allclose(gradient, torch::autograd::grad({expected}, {logits})[0], 0, 1e-12));
}

TEST(ItmLoss, AccuracyIsSplitByTheNegativesSource) {
  // Right: positive 0, image negative of text 0 (queued), text negatives of both.
  const at::Tensor logits =
      at::tensor({0., 1., 1., 0., 1., 0., 0., 1., 1., 0., 2., 0.}, at::kDouble).view({6, 2});
  const ItmLossValue value = itm_loss(logits, all_valid(), 2);
  expect_accuracy(value.positive, 1, 2);
  expect_accuracy(value.image_from_queue, 1, 1);
  expect_accuracy(value.image_from_batch, 0, 1);
  expect_accuracy(value.text_from_batch, 1, 1);
  expect_accuracy(value.text_from_queue, 1, 1);
  EXPECT_EQ(value.positive.mean().item<double>(), 0.5);
}

/// A head that says the same for every pair knows nothing, and is never right.
TEST(ItmLoss, UndecidedIsNotRight) {
  const ItmLossValue value = itm_loss(at::zeros({6, 2}), all_valid(), 2);
  EXPECT_EQ(value.positive.correct.item<double>() + value.text_from_batch.correct.item<double>(), 0);
  EXPECT_NEAR(value.mean().item<double>(), std::log(2.0), 1e-6);
}

TEST(ItmLoss, PairsWithoutAValidNegativeDontCount) {
  at::manual_seed(2);
  const at::Tensor logits = at::randn({9, 2}, at::kDouble).set_requires_grad(true);
  // Pair 0 has both negatives, pair 1 only an image, pair 2 none.
  const HardNegatives negatives{ids({1, 0, 0}), ids({2, 0, 0}), flags({1, 0, 0}), flags({1, 1, 0})};
  const ItmLossValue value = itm_loss(logits, negatives, 3);
  EXPECT_EQ(value.count.item<double>(), 5);
  const at::Tensor counted = ids({0, 1, 3, 4, 6});
  const at::Tensor expected = at::cross_entropy_loss(logits.index_select(0, counted), ids({1, 1, 0, 0, 0}));
  EXPECT_NEAR(value.mean().item<double>(), expected.item<double>(), 1e-12);
  value.mean().backward();
  for (const std::int64_t row : {2, 5, 7, 8}) {
    EXPECT_EQ(logits.grad()[row].count_nonzero().item<int>(), 0) << row;
  }
  expect_accuracy(value.text_from_queue, 0, 0);
  EXPECT_EQ(value.image_from_batch.count.item<double>(), 2);
  EXPECT_EQ(value.positive.count.item<double>(), 2);
}

TEST(ItmLoss, NothingValidIsALossOfZeroWithoutNan) {
  const at::Tensor logits = at::randn({6, 2}).set_requires_grad(true);
  const HardNegatives none{ids({0, 0}), ids({0, 0}), flags({0, 0}), flags({0, 0})};
  const ItmLossValue value = itm_loss(logits, none, 2);
  value.mean().backward();
  EXPECT_EQ(value.sum.item<double>(), 0);
  EXPECT_EQ(value.count.item<double>(), 0);
  EXPECT_EQ(value.mean().item<double>(), 0);
  EXPECT_EQ(logits.grad().count_nonzero().item<int>(), 0);
  for (const Accuracy& each : {value.positive, value.image_from_batch, value.image_from_queue,
                               value.text_from_batch, value.text_from_queue}) {
    EXPECT_EQ(each.mean().item<double>(), 0);
  }
}

TEST(ItmLoss, ComputesInFloat32AndFarFromZero) {
  const at::Tensor logits = at::tensor({200., -200., 0., 1., 1., 0., 1., 0., 1., 0., 1., 0.}).view({6, 2});
  const ItmLossValue value = itm_loss(logits.to(at::kBFloat16), all_valid(), 2);
  EXPECT_EQ(value.sum.scalar_type(), at::kFloat);
  EXPECT_NEAR(value.sum.item<double>(), 400 + 5 * std::log1p(std::exp(-1.0)), 1e-3);
}

TEST(ItmLoss, WrongShapesAreRefused) {
  EXPECT_THROW(itm_loss(at::zeros({5, 2}), all_valid(), 2), c10::Error);
  EXPECT_THROW(itm_loss(at::zeros({6, 3}), all_valid(), 2), c10::Error);
  EXPECT_THROW(itm_loss(at::zeros({9, 2}), all_valid(), 2), c10::Error);
}

}  // namespace
}  // namespace tessera::losses
