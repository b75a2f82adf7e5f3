#include "memory/running_moments.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace tessera::memory {
namespace {

TEST(RunningMoments, AreThoseOfAllRowsAtFirst) {
  torch::manual_seed(2);
  RunningMoments moments(5);
  const auto rows = 3 * torch::randn({60, 5}, torch::kDouble) + torch::arange(5);
  moments->to(torch::kDouble);
  for (const std::int64_t first : {0, 20, 40}) moments->observe(rows.slice(0, first, first + 20));
  EXPECT_TRUE(torch::allclose(moments->mean, rows.mean(0)));
  EXPECT_TRUE(torch::allclose(moments->variance, rows.var(0, /*unbiased=*/false)));
  const auto standard = moments->standardise(rows);
  EXPECT_TRUE(torch::allclose(standard.mean(0), torch::zeros({5}, torch::kDouble), 1e-5, 1e-5));
  EXPECT_TRUE(torch::allclose(standard.square().mean(0), torch::ones({5}, torch::kDouble), 1e-4, 1e-4));
}

TEST(RunningMoments, LaterBatchesWeighAHundredth) {
  RunningMoments moments(2);
  for (int i = 0; i < 150; ++i) moments->observe(torch::randn({30, 2}));
  const auto before = moments->mean.clone();
  moments->observe(before + torch::ones({4, 2}));
  EXPECT_TRUE(torch::allclose(moments->mean, before + 0.01, 1e-4, 1e-4));
  // It follows a distribution that moves.
  for (int i = 0; i < 1000; ++i) moments->observe(5 + 2 * torch::randn({30, 2}));
  EXPECT_TRUE(torch::allclose(moments->mean, torch::full({2}, 5.0), 0.05, 0.05));
  EXPECT_TRUE(torch::allclose(moments->variance, torch::full({2}, 4.0), 0.1, 0.1));
}

TEST(RunningMoments, BeforeAnythingIsObservedRowsStayAsTheyAreAndNothingTrains) {
  RunningMoments moments(3);
  const auto rows = torch::randn({4, 3});
  EXPECT_TRUE(torch::allclose(moments->standardise(rows), rows, 1e-4, 1e-4));
  for (const at::Tensor& parameter : moments->parameters()) EXPECT_FALSE(parameter.requires_grad());
}

}  // namespace
}  // namespace tessera::memory
