#include "data/sampler.h"

#include <gmock/gmock.h>

#include <set>

#include "tests/data/fixtures.h"

namespace tessera::data {
namespace {

std::vector<std::int64_t> covered(const SamplerOptions& options) {
  std::vector<std::int64_t> positions;
  const EpochSampler sampler(options);
  for (std::int64_t batch = 0; batch < sampler.batches(); ++batch) {
    const PositionRange range = sampler.positions(batch);
    for (std::int64_t i = 0; i < range.count; ++i) positions.push_back(range.first + i);
  }
  return positions;
}

TEST(EpochSampler, RanksPartitionThePositionsOfOneRank) {
  for (const bool drop_last : {true, false}) {
    for (const std::int64_t samples : {24, 25, 29, 31}) {
      std::multiset<std::int64_t> together;
      for (std::int64_t rank = 0; rank < 3; ++rank) {
        for (const auto position : covered({samples, 4, drop_last, 7, rank, 3})) together.insert(position);
      }
      const std::int64_t rest = samples % 12;
      const std::int64_t expected = samples - rest + (drop_last ? 0 : rest / 3 * 3);
      EXPECT_EQ(static_cast<std::int64_t>(together.size()), expected);
      EXPECT_EQ(std::set<std::int64_t>(together.begin(), together.end()).size(), together.size());
      EXPECT_EQ(*together.rbegin(), expected - 1);
    }
  }
}

TEST(EpochSampler, EveryRankHasTheSameNumberOfBatchesOfTheSameSize) {
  const EpochSampler first({29, 4, false, 7, 0, 3});
  const EpochSampler last({29, 4, false, 7, 2, 3});
  ASSERT_EQ(first.batches(), 3);
  ASSERT_EQ(last.batches(), 3);
  EXPECT_EQ(first.positions(2).count, 1);
  EXPECT_EQ(last.positions(2).count, 1);
}

TEST(EpochSampler, OrdersArePermutationsThatDifferByEpochAndSeed) {
  const EpochSampler sampler({100, 10, true, 7, 0, 1});
  const auto order = *sampler.order(0);
  EXPECT_EQ(std::set<std::int64_t>(order.begin(), order.end()).size(), 100u);
  EXPECT_EQ(*std::max_element(order.begin(), order.end()), 99);
  EXPECT_EQ(order, *EpochSampler({100, 5, false, 7, 1, 2}).order(0));
  EXPECT_NE(order, *sampler.order(1));
  EXPECT_NE(order, *EpochSampler({100, 10, true, 8, 0, 1}).order(0));
}

TEST(EpochSampler, TooFewSamplesAreAnError) {
  EXPECT_NE(error_of([] { EpochSampler({11, 4, true, 0, 0, 3}); }), "");
  EXPECT_NE(error_of([] { EpochSampler({2, 4, false, 0, 0, 3}); }), "");
  EXPECT_EQ(EpochSampler({3, 4, false, 0, 0, 3}).batches(), 1);
}

}  // namespace
}  // namespace tessera::data
