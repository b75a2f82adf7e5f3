#include "memory/episodic_memory.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "tests/core/largest_difference.h"

namespace tessera::memory {
namespace {

constexpr std::int64_t kSlots = 12;
constexpr std::int64_t kCode = 20;

EpisodicMemory small_memory(double noise = 0.0) {
  return EpisodicMemory(MemoryConfig{.slots = kSlots, .code_size = kCode, .noise = noise}, /*seed=*/4);
}

torch::Tensor random(torch::IntArrayRef shape, int seed, torch::ScalarType dtype = torch::kDouble) {
  torch::manual_seed(seed);
  return torch::randn(shape, torch::kDouble).to(dtype);
}

/// q·Z⁺Z of each episode, by the singular value decomposition.
torch::Tensor projection(const torch::Tensor& written, const torch::Tensor& queries) {
  const auto wide = written.to(torch::kDouble);
  return queries.to(torch::kDouble).matmul(torch::linalg_pinv(wide, 1e-7)).matmul(wide);
}

/// Every formula of the memory as it is written, with explicit M and pseudo-inverses.
EpisodeReading transcribed(EpisodicMemory& memory, const torch::Tensor& written, const torch::Tensor& queries,
                           const EpisodeNoise& noise) {
  const double sigma = memory->config().noise;
  const auto prior = memory->prior_mean.to(torch::kDouble);
  const auto variance = memory->address_log_variance.to(torch::kDouble);
  const auto z = written + sigma * noise.written;
  const auto w = (z + sigma * noise.written_addresses).matmul(torch::linalg_pinv(prior));
  const auto m = torch::linalg_pinv(w).matmul(z);
  const auto mean = (queries + sigma * noise.queries).matmul(torch::linalg_pinv(m, 1e-9));
  const auto sample = mean + (variance / 2).exp() * noise.addresses;
  return {.codes = sample.matmul(m) + sigma * noise.codes,
          .kl = 0.5 * (variance.exp() + mean.square() - 1 - variance).sum(-1),
          .addresses = mean};
}

TEST(EpisodicMemory, ReadingIsTheProjectionOntoTheWrittenCodes) {
  auto memory = small_memory();
  for (const auto dtype : {torch::kDouble, torch::kFloat}) {
    const auto written = random({3, 7, kCode}, 1, dtype);
    const auto queries = random({3, 5, kCode}, 2, dtype);
    const auto reading = memory->read_episode(written, queries);
    EXPECT_EQ(reading.codes.scalar_type(), dtype);
    EXPECT_LT(largest_difference(reading.codes, projection(written, queries)), 1e-6);
  }
}

TEST(EpisodicMemory, WrittenCodesReadBackUnchangedWhateverThePriorMean) {
  auto memory = small_memory();
  const auto written = random({2, kSlots, kCode}, 3);
  EXPECT_LT(largest_difference(memory->read_episode(written, written).codes, written), 1e-6);
  {
    const torch::NoGradGuard no_grad;
    memory->prior_mean.mul_(3.0).add_(0.1);
  }
  EXPECT_LT(largest_difference(memory->read_episode(written, written).codes, written), 1e-6);
}

TEST(EpisodicMemory, AddressesReadTheMemoryThatTheFormulasWrite) {
  auto memory = small_memory();
  const auto written = random({2, 6, kCode}, 5);
  const auto queries = random({2, 4, kCode}, 6);
  const auto reading = memory->read_episode(written, queries);
  const auto zeros = EpisodeNoise{.written = torch::zeros_like(written),
                                  .written_addresses = torch::zeros_like(written),
                                  .queries = torch::zeros_like(queries),
                                  .addresses = torch::zeros({2, 4, kSlots}, torch::kDouble),
                                  .codes = torch::zeros_like(queries)};
  const auto expected = transcribed(memory, written, queries, zeros);
  EXPECT_LT(largest_difference(reading.addresses, expected.addresses), 1e-5);
  EXPECT_LT(largest_difference(reading.kl, expected.kl), 1e-4);
  EXPECT_LT(largest_difference(reading.codes, expected.codes), 1e-6);
}

TEST(EpisodicMemory, NoiseEntersWhereTheFormulasSay) {
  auto memory = small_memory(/*noise=*/1e-4);
  memory->eval();  // given noise counts in either mode
  const auto written = random({2, 6, kCode}, 7);
  const auto queries = random({2, 4, kCode}, 8);
  // Each of them large enough, at this σ, to be seen well above the ridge's share.
  const EpisodeNoise noise{.written = 2000 * random({2, 6, kCode}, 9),
                           .written_addresses = 2000 * random({2, 6, kCode}, 10),
                           .queries = 2000 * random({2, 4, kCode}, 11),
                           .addresses = random({2, 4, kSlots}, 12),
                           .codes = 2000 * random({2, 4, kCode}, 13)};
  const auto reading = memory->read_episode(written, queries, noise);
  const auto expected = transcribed(memory, written, queries, noise);
  EXPECT_LT(largest_difference(reading.codes, expected.codes), 1e-5);
  EXPECT_LT(largest_difference(reading.addresses, expected.addresses), 1e-4);
  EXPECT_GT(largest_difference(reading.codes, memory->read_episode(written, queries).codes), 1e-2);
}

TEST(EpisodicMemory, OnlyTrainingDrawsNoise) {
  auto memory = small_memory(/*noise=*/1e-2);
  const auto written = random({2, 6, kCode}, 14, torch::kFloat);
  memory->eval();
  EXPECT_TRUE(torch::equal(memory->read_episode(written, written).codes,
                           memory->read_episode(written, written).codes));
  memory->train();
  torch::manual_seed(1);
  const auto first = memory->read_episode(written, written).codes;
  const auto second = memory->read_episode(written, written).codes;
  EXPECT_FALSE(torch::equal(first, second));
  torch::manual_seed(1);
  EXPECT_TRUE(torch::equal(first, memory->read_episode(written, written).codes));
  auto silent = small_memory(/*noise=*/0);
  EXPECT_LT(largest_difference(silent->read_episode(written, written).codes, written), 1e-6);
}

TEST(EpisodicMemory, LeavingOneOutEqualsWritingTheOthersAlone) {
  auto memory = small_memory();
  constexpr std::int64_t kItems = 6;
  const auto written = random({2, kItems, kCode}, 15);
  const auto queries = random({2, kItems, kCode}, 16);
  const auto reading = memory->read_leave_one_out(written, queries, {});
  for (std::int64_t i = 0; i < kItems; ++i) {
    const auto others = torch::cat({written.slice(1, 0, i), written.slice(1, i + 1)}, 1);
    const auto expected = memory->read_episode(others, queries.slice(1, i, i + 1));
    EXPECT_LT(largest_difference(reading.codes.slice(1, i, i + 1), expected.codes), 1e-6) << i;
    EXPECT_LT(largest_difference(reading.kl.slice(1, i, i + 1), expected.kl), 1e-4) << i;
  }
}

TEST(EpisodicMemory, LeavingAnImageOutLeavesAllItsItemsOut) {
  auto memory = small_memory();
  const auto ids = torch::tensor({7, 3, 7, 3, 7, 9, 5, 5, 5, 5, 5, 5}).view({2, 6});
  auto written = random({2, 6, kCode}, 35);
  written[0][2] = written[0][0];  // the same pair twice, as where it replaces a broken one
  const auto queries = random({2, 6, kCode}, 36);
  const auto reading = memory->read_leave_one_out(written, queries, ids);
  for (std::int64_t n = 0; n < 2; ++n) {
    for (std::int64_t i = 0; i < 6; ++i) {
      const auto others = ids[n].ne(ids[n][i]).nonzero().squeeze(1);
      const auto found = reading.codes[n][i];
      if (others.numel() == 0) {
        EXPECT_EQ(found.abs().max().item<double>(), 0.0) << "an empty memory";
        continue;
      }
      const auto expected = memory->read_episode(written[n].index_select(0, others).unsqueeze(0),
                                                 queries[n][i].view({1, 1, kCode}));
      EXPECT_LT(largest_difference(found, expected.codes[0][0]), 1e-5) << n << " " << i;
      EXPECT_LT(largest_difference(reading.kl[n][i], expected.kl[0][0]), 1e-4) << n << " " << i;
    }
  }
  // Of ids that all differ, each is an item by itself.
  const auto different = torch::arange(12).view({2, 6});
  EXPECT_LT(largest_difference(memory->read_leave_one_out(written, queries, different).codes,
                               memory->read_leave_one_out(written, queries, {}).codes),
            1e-9);
}

TEST(EpisodicMemory, WhatIsLeftOutHasNoPartInTheReadingNotEvenThroughNoise) {
  for (const double noise : {0.0, 1e-2}) {
    auto memory = small_memory(noise);
    const auto queries = random({1, 4, kCode}, 17);
    auto written = random({1, 4, kCode}, 18);
    const auto read = [&] {
      torch::manual_seed(5);
      return memory->read_leave_one_out(written, queries, {}).codes;
    };
    const auto before = read();
    written[0][2] = random({kCode}, 19);
    const auto after = read();
    // A ridge of σ² is relative to the mean square of all items.
    EXPECT_LT(largest_difference(before[0][2], after[0][2]), noise == 0 ? 1e-6 : 1e-3);
    EXPECT_GT(largest_difference(before[0][1], after[0][1]), 1e-2);
  }
}

TEST(EpisodicMemory, ASingleItemReadsAlongItsOwnDirectionAndWithoutItNothing) {
  auto memory = small_memory();
  const auto written = random({2, 1, kCode}, 20);
  const auto queries = random({2, 1, kCode}, 21);
  EXPECT_LT(largest_difference(memory->read_episode(written, queries).codes, projection(written, queries)),
            1e-6);
  EXPECT_EQ(memory->read_leave_one_out(written, queries, {}).codes.abs().max().item<double>(), 0.0);
}

TEST(EpisodicMemory, TheOrderOfWritingAndTheOtherEpisodesDoNotMatter) {
  auto memory = small_memory();
  const auto written = random({2, 6, kCode}, 22);
  const auto queries = random({2, 3, kCode}, 23);
  const auto reading = memory->read_episode(written, queries);
  const auto turned = memory->read_episode(written.flip({1}), queries);
  EXPECT_LT(largest_difference(reading.codes, turned.codes), 1e-8);
  EXPECT_LT(largest_difference(reading.kl, turned.kl), 1e-5);
  const auto alone = memory->read_episode(written.slice(0, 1, 2), queries.slice(0, 1, 2));
  EXPECT_LT(largest_difference(reading.codes.slice(0, 1, 2), alone.codes), 1e-9);
}

TEST(EpisodicMemory, RepeatedItemsReadBackWithFiniteGradients) {
  for (const double noise : {0.0, 1e-3}) {
    auto memory = small_memory(noise);
    auto leaf = random({1, 3, kCode}, 24, torch::kFloat).set_requires_grad(true);
    const auto written = leaf.index_select(1, torch::tensor({0, 1, 0, 2, 0}));
    auto queries = random({1, 5, kCode}, 25, torch::kFloat).set_requires_grad(true);
    const auto reading = memory->read_episode(written, queries);
    const auto without = memory->read_leave_one_out(written, queries, {});
    (reading.codes.square().sum() + reading.kl.sum() + without.codes.square().sum()).backward();
    for (const auto& gradient :
         {leaf.grad(), queries.grad(), memory->prior_mean.grad(), memory->address_log_variance.grad()}) {
      EXPECT_TRUE(gradient.isfinite().all().item<bool>());
      EXPECT_LT(gradient.abs().max().item<double>(), 1e5);
    }
    if (noise == 0) {
      EXPECT_LT(largest_difference(memory->read_episode(written, written).codes, written), 1e-5);
    }
  }
}

TEST(EpisodicMemory, GradientsAreThoseOfFiniteDifferences) {
  auto memory = small_memory();
  memory->to(torch::kDouble);
  auto written = random({1, 4, kCode}, 26).set_requires_grad(true);
  auto queries = random({1, 4, kCode}, 27).set_requires_grad(true);
  const auto weights = random({1, 4, kCode}, 28);
  const auto value = [&] {
    const auto reading = memory->read_episode(written, queries);
    return (reading.codes * weights).sum() + 0.01 * reading.kl.sum() +
           (memory->read_leave_one_out(written, queries, {}).codes * weights).sum() +
           (memory->read_leave_one_out(written, queries, torch::tensor({{1, 2, 1, 3}})).codes * weights)
               .sum();
  };
  value().backward();
  const torch::NoGradGuard no_grad;
  constexpr double kStep = 1e-5;
  for (auto leaf : {written, queries, memory->prior_mean}) {
    const auto direction = random(leaf.sizes(), 29);
    leaf.add_(direction, kStep);
    const double above = value().item<double>();
    leaf.add_(direction, -2 * kStep);
    const double below = value().item<double>();
    leaf.add_(direction, kStep);
    const double expected = (above - below) / (2 * kStep);
    EXPECT_NEAR((leaf.grad() * direction).sum().item<double>(), expected, 1e-5 * (1 + std::abs(expected)));
  }
}

TEST(EpisodicMemory, ThePriorMeanComesFromItsSeedAlone) {
  torch::manual_seed(1);
  const auto first = small_memory()->prior_mean;
  torch::manual_seed(2);
  EXPECT_TRUE(torch::equal(first, small_memory()->prior_mean));
  const EpisodicMemory other(MemoryConfig{.slots = kSlots, .code_size = kCode}, /*seed=*/5);
  EXPECT_FALSE(torch::equal(first, other->prior_mean));
  const EpisodicMemory wide(MemoryConfig{.slots = 64, .code_size = 256}, /*seed=*/0);
  EXPECT_NEAR(wide->prior_mean.square().mean().item<double>() * 256, 1.0, 0.05);
}

TEST(EpisodicMemory, WhatDoesNotFitIsRefused) {
  auto memory = small_memory();
  const auto codes = random({1, 4, kCode}, 30);
  EXPECT_THROW(memory->read_episode(random({1, kSlots + 1, kCode}, 31), codes), c10::Error);
  EXPECT_THROW(memory->read_episode(codes, random({2, 4, kCode}, 31)), c10::Error);
  EXPECT_THROW(memory->read_episode(codes, random({1, 4, kCode - 1}, 31)), c10::Error);
  EXPECT_THROW(memory->read_leave_one_out(codes, random({1, 3, kCode}, 31), {}), c10::Error);
  EXPECT_THROW(memory->read_leave_one_out(codes, codes, torch::zeros({1, 3}, torch::kLong)), c10::Error);
  EXPECT_THROW(memory->read_leave_one_out(codes, codes, torch::zeros({1, 4})), c10::Error);
  EXPECT_THROW(EpisodicMemory(MemoryConfig{.slots = 8, .code_size = 8}, /*seed=*/0), c10::Error);
}

TEST(AddressKl, IsThatOfNormalDistributions) {
  const auto mean = random({3, 5}, 32);
  const auto log_variance = random({5}, 33);
  // E over the address of log N(w; w̄, e^v) − log N(w; 0, 1), sampled.
  const auto noise = random({200000, 1, 5}, 34);
  const auto sample = mean + (log_variance / 2).exp() * noise;
  const auto log_ratio = 0.5 * (sample.square() - noise.square() - log_variance).sum(-1);
  EXPECT_TRUE(torch::allclose(address_kl(mean, log_variance), log_ratio.mean(0), 0.01, 0.03));
  EXPECT_EQ(address_kl(torch::zeros({5}), torch::zeros({5})).item<double>(), 0.0);
}

}  // namespace
}  // namespace tessera::memory
