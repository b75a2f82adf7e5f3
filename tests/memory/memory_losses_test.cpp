#include "memory/memory_losses.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace tessera::memory {
namespace {

EpisodeReading reading_of(const torch::Tensor& codes) {
  return {.codes = codes, .kl = codes.detach().square().sum(-1), .addresses = {}};
}

TEST(MemoryLosses, SumsOverQueriesAndCountsThem) {
  torch::manual_seed(1);
  const auto read = torch::randn({3, 4, 6});
  const auto codes = torch::randn({3, 4, 6});
  const auto losses = memory_losses(reading_of(read), codes);
  EXPECT_EQ(losses.count.item<float>(), 12.0f);
  EXPECT_NEAR(losses.alignment_sum.item<double>(), (read - codes).square().sum().item<double>() / 6, 1e-4);
  EXPECT_NEAR(losses.kl_sum.item<double>(), read.square().sum().item<double>(), 1e-3);
}

TEST(MemoryLosses, PartsAddUpToTheWhole) {
  torch::manual_seed(2);
  const auto read = torch::randn({3, 4, 6});
  const auto codes = torch::randn({3, 4, 6});
  const auto whole = memory_losses(reading_of(read), codes);
  const auto first = memory_losses(reading_of(read.slice(0, 0, 1)), codes.slice(0, 0, 1));
  const auto rest = memory_losses(reading_of(read.slice(0, 1)), codes.slice(0, 1));
  EXPECT_NEAR((first.alignment_sum + rest.alignment_sum).item<double>(), whole.alignment_sum.item<double>(),
              1e-4);
  EXPECT_EQ((first.count + rest.count).item<float>(), whole.count.item<float>());
}

TEST(MemoryLosses, TheCodesAreATargetOnly) {
  auto read = torch::randn({1, 2, 4}).set_requires_grad(true);
  auto codes = torch::randn({1, 2, 4}).set_requires_grad(true);
  memory_losses(reading_of(read), codes).alignment_sum.backward();
  EXPECT_TRUE(torch::allclose(read.grad(), 2 * (read - codes).detach() / 4, 1e-5, 1e-6));
  EXPECT_FALSE(codes.grad().defined());
}

TEST(MemoryLosses, ShapesHaveToAgree) {
  EXPECT_THROW(memory_losses(reading_of(torch::randn({1, 2, 4})), torch::randn({2, 1, 4})), c10::Error);
}

}  // namespace
}  // namespace tessera::memory
