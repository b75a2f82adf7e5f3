#include "ops/activations.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/ops/differentiated.h"

namespace tessera::ops {
namespace {

/// From far below to far above 0, so many that there are several threads' work and a rest of no whole vector.
at::Tensor values() { return at::linspace(-40, 40, 70001, at::kFloat); }

TEST(ActivationsTest, SwigluIsSiluTimesTheOther) {
  at::manual_seed(2);
  expect_agreement([](const std::vector<at::Tensor>& x) { return swiglu(x[0], x[1]); },
                   [](const std::vector<at::Tensor>& x) { return at::silu(x[0]) * x[1]; },
                   {values(), at::randn({70001})}, at::randn({70001}));
}

TEST(ActivationsTest, InputsMayLieAnyhow) {
  at::manual_seed(3);
  const at::Tensor both = at::randn({5, 2, 9});
  EXPECT_TRUE(at::equal(swiglu(both.select(1, 0), both.select(1, 1)),
                        swiglu(both.select(1, 0).contiguous(), both.select(1, 1).contiguous())));
}

TEST(ActivationsTest, OtherPrecisionsAreLibTorchs) {
  const at::Tensor x = at::randn({4, 9});
  for (const auto dtype : {at::kDouble, at::kBFloat16}) {
    EXPECT_TRUE(at::equal(swiglu(x.to(dtype), x.to(dtype)), at::silu(x.to(dtype)) * x.to(dtype)));
    EXPECT_EQ(dropout(x.to(dtype), 0.5).scalar_type(), dtype);
    EXPECT_EQ(swiglu_keeps(c10::kCPU, dtype), 3);
    EXPECT_EQ(dropout_keeps(c10::kCPU, dtype), 1);
  }
  EXPECT_EQ(swiglu_keeps(c10::kCPU, at::kFloat), 2);
  EXPECT_EQ(dropout_keeps(c10::kCPU, at::kFloat), 0);
}

TEST(ActivationsTest, DropoutDropsItsShareAndKeepsTheMean) {
  at::manual_seed(4);
  constexpr std::int64_t kCount = 1'000'003;
  const at::Tensor ones = at::ones({kCount});
  for (const double probability : {0.1, 0.5, 0.9}) {
    const at::Tensor y = dropout(ones, probability);
    const double kept = y.ne(0).to(at::kDouble).mean().item<double>();
    const double deviation = std::sqrt(probability * (1 - probability) / kCount);
    EXPECT_NEAR(kept, 1 - probability, 5 * deviation);
    EXPECT_FLOAT_EQ(y.max().item<float>(), static_cast<float>(1 / (1 - probability)));
  }
  EXPECT_TRUE(at::equal(dropout(ones, 0), ones));
}

TEST(ActivationsTest, DropoutOfNeighboursAndOfCallsIsIndependent) {
  at::manual_seed(5);
  constexpr std::int64_t kCount = 1 << 20;
  const double tolerance = 5 / std::sqrt(static_cast<double>(kCount));
  const auto signs = [&] { return dropout(at::ones({kCount}), 0.5) - 1; };  // −1 or 1
  const at::Tensor first = signs(), second = signs();
  const auto correlation = [](const at::Tensor& a, const at::Tensor& b) {
    return (a * b).mean().item<double>();
  };
  EXPECT_NEAR(correlation(first, second), 0, tolerance);
  for (const std::int64_t distance : {1, 2, 16, 192, 4096}) {
    EXPECT_NEAR(correlation(first.slice(0, distance), first.slice(0, 0, kCount - distance)), 0, tolerance)
        << "at distance " << distance;
  }
}

TEST(ActivationsTest, DropoutsGradientHasTheSameMaskAndThreadsDontMatter) {
  const auto drop = [](const std::vector<at::Tensor>& x) { return dropout(x[0], 0.3); };
  const at::Tensor ones = at::ones({123, 457});
  at::manual_seed(6);
  const auto found = differentiated(drop, {ones}, ones);
  EXPECT_TRUE(at::equal(found[0], found[1]));  // of ones: the mask, scaled, both times
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  at::manual_seed(6);
  EXPECT_TRUE(at::equal(dropout(ones, 0.3), found[1]));
  at::set_num_threads(threads);
}

}  // namespace
}  // namespace tessera::ops
