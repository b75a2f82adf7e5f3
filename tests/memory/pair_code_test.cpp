#include "memory/pair_code.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>

namespace tessera::memory {
namespace {

PairCode small_code(int seed = 1) {
  torch::manual_seed(seed);
  return PairCode(PairCodeOptions{.image_size = 10, .text_size = 14, .code_size = 96, .hidden_size = 24});
}

torch::Tensor mask(std::vector<int> values) { return torch::tensor(values).to(torch::kBool); }

TEST(PairCode, CodesHaveMeanSquareOne) {
  auto code = small_code();
  const auto z = code->forward(5 * torch::randn({6, 10}), 0.1 * torch::randn({6, 14}));
  EXPECT_EQ(z.sizes(), torch::IntArrayRef({6, 96}));
  EXPECT_TRUE(torch::allclose(z.square().mean(1), torch::ones({6}), 1e-3, 1e-3));
}

TEST(PairCode, AnAbsentSideHasNoPartInItsRow) {
  auto code = small_code();
  const auto image = torch::randn({3, 10});
  const auto text = torch::randn({3, 14});
  const auto whole = code->forward(image, text);
  auto spoilt = text.clone();
  spoilt[1] = std::numeric_limits<float>::quiet_NaN();
  const auto dropped = code->forward(image, spoilt, mask({1, 1, 1}), mask({1, 0, 1}));
  EXPECT_TRUE(torch::allclose(dropped[0], whole[0], 1e-5, 1e-6));
  EXPECT_TRUE(torch::allclose(dropped[2], whole[2], 1e-5, 1e-6));
  EXPECT_FALSE(torch::allclose(dropped[1], whole[1], 1e-2, 1e-2));
  EXPECT_TRUE(torch::allclose(dropped[1], code->forward(image, {})[1], 1e-5, 1e-6));
  const auto image_dropped = code->forward(image, text, mask({0, 1, 1}), mask({1, 1, 1}));
  EXPECT_TRUE(torch::allclose(image_dropped[0], code->forward({}, text)[0], 1e-5, 1e-6));
}

TEST(PairCode, EveryWeightLearnsAndNothingReachesTheVectors) {
  auto code = small_code();
  auto image = torch::randn({4, 10}).set_requires_grad(true);
  auto text = torch::randn({4, 14}).set_requires_grad(true);
  const auto z = code->forward(image, text, mask({1, 0, 1, 1}), mask({1, 1, 0, 1}));
  (z * torch::randn({4, 96})).sum().backward();
  for (const auto& item : code->named_parameters()) {
    const bool is_moment = item.key().find("_moments.") != std::string::npos;
    EXPECT_NE(item.value().requires_grad(), is_moment) << item.key();
    if (is_moment) continue;
    EXPECT_GT(item.value().grad().abs().max().item<double>(), 0.0) << item.key();
  }
  EXPECT_FALSE(image.grad().defined());
  EXPECT_FALSE(text.grad().defined());
}

/// Pairs that have most in common: what they differ in decides, once enough of them were observed.
TEST(PairCode, WhatAllPairsShareIsTakenOutOfTheirCodes) {
  auto code = small_code();
  const auto image = 10 * torch::randn({10}) + torch::randn({40, 10});
  const auto text = 10 * torch::randn({14}) + torch::randn({40, 14});
  const auto likeness = [&] {
    const auto z = code->forward(image, text);
    return torch::cosine_similarity(z, z.roll(1, 0)).mean().item<double>();
  };
  EXPECT_GT(likeness(), 0.8);
  code->observe(image, text);
  EXPECT_LT(likeness(), 0.3);
}

/// What the architecture is for: pairs that vary in few ways have codes of many dimensions.
TEST(PairCode, PairsOfFewFactorsHaveCodesOfManyDimensions) {
  torch::manual_seed(3);
  PairCode code(PairCodeOptions{.image_size = 32, .text_size = 32, .code_size = 256});
  const auto factors = torch::randint(0, 2, {300, 8}).to(torch::kFloat) - 0.5;
  const torch::NoGradGuard no_grad;
  const auto z = code->forward(factors.matmul(torch::randn({8, 32})), factors.matmul(torch::randn({8, 32})));
  const auto singular = torch::linalg_svdvals(z - z.mean(0)).square();
  const double effective = (singular.sum().square() / singular.square().sum()).item<double>();
  EXPECT_GT(effective, 3 * 8);
}

TEST(PairCode, NearPairsHaveNearCodesAndOthersAlmostNone) {
  auto code = small_code();
  const auto image = torch::randn({20, 10});
  const auto text = torch::randn({20, 14});
  const auto cosine = [](const torch::Tensor& left, const torch::Tensor& right) {
    return torch::cosine_similarity(left, right).mean().item<double>();
  };
  const torch::NoGradGuard no_grad;
  const auto z = code->forward(image, text);
  EXPECT_GT(cosine(z, code->forward(image + 0.05 * torch::randn({20, 10}), text)), 0.95);
  EXPECT_LT(cosine(z, z.roll(1, 0)), 0.4);
}

TEST(PairCode, FrequenciesAreThoseOfTheSizesNotOfTheRun) {
  auto first = small_code(1);
  auto second = small_code(2);
  for (const auto& item : first->named_buffers()) {
    EXPECT_TRUE(torch::equal(item.value(), second->named_buffers()[item.key()])) << item.key();
  }
  for (auto& item : second->named_parameters()) {
    const torch::NoGradGuard no_grad;
    item.value().copy_(first->named_parameters()[item.key()]);
  }
  const auto image = torch::randn({2, 10});
  EXPECT_TRUE(torch::equal(first->forward(image, {}), second->forward(image, {})));
}

TEST(PairCode, MovesToAnotherPrecisionAsAWhole) {
  auto code = small_code();
  const auto image = torch::randn({2, 10});
  const auto single = code->forward(image, {});
  code->to(torch::kDouble);
  const auto wide = code->forward(image, {});
  EXPECT_EQ(wide.scalar_type(), torch::kDouble);
  EXPECT_TRUE(torch::allclose(wide.to(torch::kFloat), single, 1e-3, 1e-4));
}

TEST(PairCode, WhatDoesNotFitIsRefused) {
  auto code = small_code();
  const auto image = torch::randn({2, 10});
  const auto text = torch::randn({2, 14});
  EXPECT_THROW(code->forward({}, {}), c10::Error);
  EXPECT_THROW(code->forward(image, torch::randn({3, 14})), c10::Error);
  EXPECT_THROW(code->forward(text, image), c10::Error);
  EXPECT_THROW(code->forward(image, text, torch::ones({2})), c10::Error);
  EXPECT_THROW(code->forward(image, {}, {}, mask({1, 1})), c10::Error);
}

}  // namespace
}  // namespace tessera::memory
