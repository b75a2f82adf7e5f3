#include "fusion/pooling.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace tessera::fusion {
namespace {

TEST(MaskedMean, MatchesTheMeanOfTheKeptRows) {
  const auto hidden = torch::randn({1, 5, 3}, torch::kDouble);
  const auto mask = torch::tensor({1, 0, 1, 1, 0}).view({1, 5}).to(torch::kBool);
  const auto expected = (hidden[0][0] + hidden[0][2] + hidden[0][3]) / 3.0;
  EXPECT_TRUE(torch::allclose(masked_mean(hidden, mask)[0], expected, 1e-12, 1e-12));
}

TEST(MaskedMean, RefusesAMaskOfOtherTokens) {
  EXPECT_THROW(masked_mean(torch::randn({2, 5, 3}), torch::ones({2, 4}, torch::kBool)), c10::Error);
}

TEST(PooledImageTokens, ClsStandsBesideTheMeanOfThePatchesAlone) {
  const auto tokens = torch::tensor({9.0, 9.0, 1.0, 2.0, 3.0, 6.0}).view({1, 3, 2});
  EXPECT_TRUE(torch::equal(pooled_image_tokens(tokens)[0], torch::tensor({9.0, 9.0, 2.0, 4.0})));
  EXPECT_THROW(pooled_image_tokens(tokens.slice(1, 0, 1)), c10::Error) << "no patch";
}

TEST(UnitLength, ScalesRowsInFloat32AndLeavesZeroFinite) {
  const auto rows = torch::tensor({3.0F, 4.0F, 0.0F, 0.0F}).view({2, 2});
  const auto unit = unit_length(rows.to(torch::kBFloat16));
  EXPECT_EQ(unit.scalar_type(), torch::kFloat);
  EXPECT_TRUE(torch::allclose(unit, torch::tensor({0.6F, 0.8F, 0.0F, 0.0F}).view({2, 2})));
  EXPECT_EQ(unit_length(rows.to(torch::kDouble)).scalar_type(), torch::kDouble);
}

}  // namespace
}  // namespace tessera::fusion
