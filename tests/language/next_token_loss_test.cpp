#include "language/next_token_loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace tessera::language {
namespace {

TEST(NextTokenLoss, IsTheMeanOverCountedPositions) {
  at::manual_seed(1);
  const at::Tensor logits = at::randn({2, 4, 5}, at::kDouble);
  const at::Tensor labels =
      at::tensor(std::vector<std::int64_t>{4, 1, kIgnoreIndex, 2, 0, 3, 3, kIgnoreIndex}).view({2, 4});
  const at::Tensor log_probabilities = at::log_softmax(logits, -1);
  double sum = 0;
  std::int64_t count = 0;
  for (std::int64_t row = 0; row < 2; ++row) {
    for (std::int64_t t = 0; t + 1 < 4; ++t) {
      const auto target = labels[row][t + 1].item<std::int64_t>();
      if (target == kIgnoreIndex) continue;
      sum -= log_probabilities[row][t][target].item<double>();
      ++count;
    }
  }
  const NextTokenLoss loss = next_token_loss(logits, labels);
  EXPECT_EQ(loss.count.item<std::int64_t>(), count);
  EXPECT_NEAR(loss.value.item<double>(), sum / static_cast<double>(count), 1e-12);
}

TEST(NextTokenLoss, NothingToPredictGivesZeroNotNaN) {
  at::Tensor logits = at::randn({2, 3, 5}).requires_grad_(true);
  const NextTokenLoss loss = next_token_loss(logits, at::full({2, 3}, kIgnoreIndex, at::kLong));
  EXPECT_EQ(loss.value.item<double>(), 0.0);
  EXPECT_EQ(loss.count.item<std::int64_t>(), 0);
  loss.value.backward();
  EXPECT_EQ(logits.grad().abs().max().item<double>(), 0.0);
}

TEST(NextTokenLoss, HalfPrecisionLogitsAreSummedInFloat32) {
  const at::Tensor logits = at::zeros({1, 3, 1000}, at::kBFloat16);
  const NextTokenLoss loss = next_token_loss(logits, at::zeros({1, 3}, at::kLong));
  EXPECT_EQ(loss.value.scalar_type(), at::kFloat);
  EXPECT_NEAR(loss.value.item<double>(), std::log(1000.0), 1e-5);
}

TEST(NextTokenLabels, LeaveOutPaddingAndTheEndOfWhatWasCut) {
  const TokenBatch tokens{
      at::tensor(std::vector<std::int64_t>{2, 7, 8, 3, 2, 7, 3, 0, 2, 9, 9, 3}).view({3, 4}),
      at::tensor({1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1}).view({3, 4}).to(at::kBool),
      at::tensor({0, 0, 1}).to(at::kBool)};
  const std::vector<std::int64_t> expected = {2, 7, 8, 3, 2, 7, 3, kIgnoreIndex, 2, 9, 9, kIgnoreIndex};
  EXPECT_TRUE(at::equal(next_token_labels(tokens).flatten(), at::tensor(expected)));
  EXPECT_EQ(tokens.input_ids[2][3].item<std::int64_t>(), 3) << "what is read keeps its end token";
  const TokenBatch uncut{tokens.input_ids, tokens.attention_mask};
  EXPECT_EQ(next_token_labels(uncut)[2][3].item<std::int64_t>(), 3);
}

TEST(NextTokenLoss, RefusesShapesThatDontFit) {
  EXPECT_THROW(next_token_loss(at::zeros({2, 3, 5}), at::zeros({2, 4}, at::kLong)), c10::Error);
  EXPECT_THROW(next_token_loss(at::zeros({2, 3, 5}), at::zeros({2, 3}, at::kInt)), c10::Error);
}

}  // namespace
}  // namespace tessera::language
