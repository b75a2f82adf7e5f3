#include "core/random.h"

#include <c10/util/Exception.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

namespace tessera {
namespace {

using ::testing::ElementsAre;

// Random123's known-answer vectors, lines "philox4x32 10" of tests/kat_vectors.
TEST(Philox, KnownAnswers) {
  EXPECT_THAT(philox4x32_10({0, 0, 0, 0}, {0, 0}),
              ElementsAre(0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u));
  constexpr std::uint32_t kOnes = 0xffffffffu;
  EXPECT_THAT(philox4x32_10({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
              ElementsAre(0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu));
  EXPECT_THAT(philox4x32_10({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}),
              ElementsAre(0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u));
}

std::vector<std::uint32_t> first_draws(std::uint64_t seed, RandomPurpose purpose, std::uint64_t step,
                                       std::uint64_t index) {
  CounterRandom random(seed, purpose, step, index);
  std::vector<std::uint32_t> draws(9);
  std::generate(draws.begin(), draws.end(), std::ref(random));
  return draws;
}

TEST(CounterRandom, SameArgumentsSameStreamAndEveryArgumentMatters) {
  const auto draws = first_draws(1, RandomPurpose::kCaption, 2, 3);
  EXPECT_EQ(draws, first_draws(1, RandomPurpose::kCaption, 2, 3));
  const std::uint64_t high = std::uint64_t{1} << 40;  // both halves of the arguments reach the generator
  const std::set<std::vector<std::uint32_t>> streams{draws,
                                                     first_draws(2, RandomPurpose::kCaption, 2, 3),
                                                     first_draws(1 + high, RandomPurpose::kCaption, 2, 3),
                                                     first_draws(1, RandomPurpose::kShuffle, 2, 3),
                                                     first_draws(1, RandomPurpose::kCaption, 3, 3),
                                                     first_draws(1, RandomPurpose::kCaption, 2 + high, 3),
                                                     first_draws(1, RandomPurpose::kCaption, 2, 4),
                                                     first_draws(1, RandomPurpose::kCaption, 2, 3 + high)};
  EXPECT_EQ(streams.size(), 8u);
}

TEST(CounterRandom, BlocksOfAStreamDiffer) {
  CounterRandom random(5, RandomPurpose::kShapes, 0, 0);
  std::set<std::uint32_t> seen;
  for (int i = 0; i < 1000; ++i) {
    seen.insert(random());
  }
  EXPECT_GE(seen.size(), 999u);  // 1,000 of 2^32: two alike are possible, more are not
}

TEST(CounterRandom, UniformHasTheMomentsOfTheUniformDistribution) {
  CounterRandom random(7, RandomPurpose::kAugmentation, 1, 1);
  constexpr int kDraws = 100000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double value = random.uniform();
    ASSERT_GE(value, 0.0);
    ASSERT_LT(value, 1.0);
    sum += value;
    squares += value * value;
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0 / 3, 0.005);
}

TEST(CounterRandom, UniformOfARangeStaysBelowItsEnd) {
  CounterRandom random(7, RandomPurpose::kAugmentation, 1, 2);
  const double low = 1.0;
  const double high = std::nextafter(1.0, 2.0);  // nothing but `low` lies in this range
  for (int i = 0; i < 100; ++i) {
    ASSERT_EQ(random.uniform(low, high), low);
    const double value = random.uniform(-3.0, 2.0);
    ASSERT_GE(value, -3.0);
    ASSERT_LT(value, 2.0);
  }
  EXPECT_EQ(random.uniform(2.0, 2.0), 2.0);
}

TEST(CounterRandom, BelowIsUniform) {
  CounterRandom random(11, RandomPurpose::kNegatives, 0, 0);
  constexpr int kDraws = 60000;
  std::array<int, 6> counts{};
  for (int i = 0; i < kDraws; ++i) {
    ++counts.at(random.below(counts.size()));
  }
  double chi_squared = 0;
  for (const int count : counts) {
    chi_squared += std::pow(count - kDraws / 6.0, 2) / (kDraws / 6.0);
  }
  EXPECT_LT(chi_squared, 25.7);  // 5 degrees of freedom, p = 1e-4
}

// For n = 3/4 of 2^64 a plain product or remainder would put half of all draws into one third of the range.
TEST(CounterRandom, BelowHasNoBiasForLargeBounds) {
  CounterRandom random(12, RandomPurpose::kNegatives, 0, 0);
  const std::uint64_t n = std::uint64_t{3} << 62;
  constexpr int kDraws = 30000;
  std::array<int, 3> counts{};
  for (int i = 0; i < kDraws; ++i) {
    const std::uint64_t value = random.below(n);
    ASSERT_LT(value, n);
    ++counts.at(value % 3);
  }
  for (const int count : counts) {
    EXPECT_NEAR(count, kDraws / 3.0, 5 * std::sqrt(kDraws * 2.0 / 9));
  }
  EXPECT_EQ(random.below(1), 0u);
  EXPECT_THROW(random.below(0), c10::Error);
}

TEST(CounterRandom, NormalHasUnitVariance) {
  CounterRandom random(13, RandomPurpose::kInitialisation, 0, 0);
  constexpr int kDraws = 100000;
  double sum = 0;
  double squares = 0;
  int beyond = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double value = random.normal();
    ASSERT_TRUE(std::isfinite(value));
    sum += value;
    squares += value * value;
    beyond += std::abs(value) > 1.959964 ? 1 : 0;
  }
  EXPECT_NEAR(sum / kDraws, 0.0, 0.016);
  EXPECT_NEAR(squares / kDraws, 1.0, 0.023);
  EXPECT_NEAR(beyond, 0.05 * kDraws, 350);
}

TEST(RandomPermutation, IsAPermutationOfItsArguments) {
  const auto order = random_permutation(1000, 3, RandomPurpose::kShuffle, 4);
  EXPECT_EQ(order, random_permutation(1000, 3, RandomPurpose::kShuffle, 4));
  EXPECT_NE(order, random_permutation(1000, 3, RandomPurpose::kShuffle, 5));
  EXPECT_NE(order, random_permutation(1000, 4, RandomPurpose::kShuffle, 4));
  auto sorted = order;
  std::sort(sorted.begin(), sorted.end());
  std::vector<std::int64_t> identity(1000);
  std::iota(identity.begin(), identity.end(), 0);
  EXPECT_EQ(sorted, identity);
  EXPECT_NE(order, identity);
  EXPECT_TRUE(random_permutation(0, 3, RandomPurpose::kShuffle, 4).empty());
}

TEST(RandomPermutation, EveryOrderIsEquallyLikely) {
  std::map<std::vector<std::int64_t>, int> counts;
  constexpr int kDraws = 12000;
  for (int step = 0; step < kDraws; ++step) {
    ++counts[random_permutation(3, 1, RandomPurpose::kShuffle, static_cast<std::uint64_t>(step))];
  }
  ASSERT_EQ(counts.size(), 6u);
  for (const auto& [order, count] : counts) {
    EXPECT_NEAR(count, kDraws / 6.0, 5 * std::sqrt(kDraws * 5.0 / 36));
  }
}

}  // namespace
}  // namespace tessera
