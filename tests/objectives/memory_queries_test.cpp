#include "objectives/memory_queries.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "config/config.h"
#include "model/build.h"
#include "model/stage1_model.h"
#include "tests/model/small_config.h"

namespace tessera::objectives {
namespace {

constexpr StepRows kEight{.seed = 3, .step = 7, .first_global_row = 0, .rows = 8};
constexpr StepRows kFirstFour{.seed = 3, .step = 7, .first_global_row = 0, .rows = 4};
constexpr StepRows kLastFour{.seed = 3, .step = 7, .first_global_row = 4, .rows = 4};

TEST(MemoryQueries, OneRankDrawsWhatTwoDo) {
  const memory::MemoryConfig memory{.drop_text = 0.4, .drop_image = 0.3, .caption_share = 0.5};
  const QuerySides whole = draw_query_sides(memory, kEight);
  const QuerySides first = draw_query_sides(memory, kFirstFour), last = draw_query_sides(memory, kLastFour);
  EXPECT_TRUE(torch::equal(whole.keeps_image, torch::cat({first.keeps_image, last.keeps_image})));
  EXPECT_TRUE(torch::equal(whole.keeps_text, torch::cat({first.keeps_text, last.keeps_text})));
  EXPECT_TRUE(torch::equal(draw_captions_with_memory(memory, kEight),
                           torch::cat({draw_captions_with_memory(memory, kFirstFour),
                                       draw_captions_with_memory(memory, kLastFour)})));
}

TEST(MemoryQueries, SharesAreTheConfiguredOnesAndNoQueryLosesBoth) {
  const memory::MemoryConfig memory{.drop_text = 0.5, .drop_image = 0.2, .caption_share = 0.25};
  const StepRows rows{.seed = 1, .step = 2, .first_global_row = 0, .rows = 20000};
  const QuerySides sides = draw_query_sides(memory, rows);
  const auto share = [](const at::Tensor& rows_kept) {
    return rows_kept.to(torch::kDouble).mean().item<double>();
  };
  // Five standard deviations of a share of 20,000 draws.
  constexpr double kNoise = 0.018;
  EXPECT_NEAR(share(sides.keeps_text), 0.5, kNoise);
  EXPECT_NEAR(share(sides.keeps_image), 0.8, kNoise);
  EXPECT_TRUE(sides.keeps_image.logical_or(sides.keeps_text).all().item<bool>());
  const at::Tensor sees = draw_captions_with_memory(memory, rows);
  EXPECT_NEAR(share(sees), 0.25, kNoise);
  // Drawn apart from each other.
  EXPECT_NEAR(share(sees.logical_and(sides.keeps_text)), 0.125, kNoise);
  StepRows next = rows;
  next.step += 1;
  EXPECT_FALSE(torch::equal(sides.keeps_text, draw_query_sides(memory, next).keeps_text));
}

/// Nothing is drawn.
Config exact_config() {
  Config config = model::small_config();
  config.compressor.dropout = 0;
  config.language.vocab_size = 30;
  config.memory.noise = 0;
  return config;
}

/// Which captions of the batch what a row recalls depends on.
void expect_captions_of_others(const at::Tensor& image_ids) {
  const Config config = exact_config();
  const auto model = model::build_model(config, std::nullopt).model;
  torch::manual_seed(1);
  const auto image = model->encode_image(torch::randint(0, 256, {10, 3, 28, 28}, torch::kByte));
  const language::TokenBatch tokens{torch::randint(5, 30, {10, 6}, torch::kLong),
                                    torch::ones({10, 6}, torch::kBool)};
  const auto recalled = [&](const language::TokenBatch& texts) {
    const model::TextFeatures text = model->encode_text(texts);
    return recall_from_others(config.memory, *model, model->pair_vectors(&image, &text), image_ids);
  };
  const at::Tensor before = recalled(tokens);
  // Two whole episodes of four; none with the two pairs that are left.
  ASSERT_EQ(before.sizes(), (std::vector<std::int64_t>{8, 16}));
  EXPECT_FALSE(before.requires_grad());
  for (std::int64_t changed = 0; changed < 10; ++changed) {
    language::TokenBatch other{tokens.input_ids.clone(), tokens.attention_mask};
    other.input_ids[changed] = 34 - other.input_ids[changed];
    const at::Tensor after = recalled(other);
    for (std::int64_t row = 0; row < 8; ++row) {
      const double difference = (after[row] - before[row]).abs().max().item<double>();
      const bool is_own = image_ids[row].item<std::int64_t>() == image_ids[changed].item<std::int64_t>();
      if (row / 4 == changed / 4 && !is_own) {
        EXPECT_GT(difference, 1e-4) << row << " of " << changed;
      } else {
        EXPECT_LT(difference, 1e-6) << row << " of " << changed;
      }
    }
  }
}

TEST(RecallFromOthers, DependsOnEveryCaptionOfTheEpisodeButTheOwn) {
  expect_captions_of_others(torch::arange(10));
}

/// As with a sample a caption, or where a sound sample stands in for a broken one.
TEST(RecallFromOthers, DependsOnNoCaptionOfTheSameImage) {
  expect_captions_of_others(torch::tensor({7, 8, 7, 9, 4, 4, 4, 7, 1, 7}));
}

}  // namespace
}  // namespace tessera::objectives
