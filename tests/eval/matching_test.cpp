#include "eval/matching.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"

namespace tessera::eval {
namespace {

/// Different numbers of captions an image, in mixed order.
at::Tensor owners() {
  return at::tensor(std::vector<std::int64_t>{2, 0, 1, 1, 0, 3, 1, 3, 3, 2, 0, 3}, at::kLong);
}

std::set<std::pair<std::int64_t, std::int64_t>> distinct(const MatchingPairs& pairs) {
  std::set<std::pair<std::int64_t, std::int64_t>> result;
  for (std::int64_t i = 0; i < pairs.image.size(0); ++i) {
    result.emplace(pairs.image[i].item<std::int64_t>(), pairs.caption[i].item<std::int64_t>());
  }
  return result;
}

/// Half right, half wrong, and labelled as the captions' owners say.
void expect_sound(const MatchingPairs& pairs, const at::Tensor& caption_image) {
  EXPECT_TRUE(at::equal(pairs.is_match, caption_image.index_select(0, pairs.caption) == pairs.image));
  EXPECT_EQ(2 * pairs.is_match.sum().item<std::int64_t>(), pairs.image.size(0));
}

MatchScorer perfect(const at::Tensor& caption_image) {
  return [=](const at::Tensor& image, const at::Tensor& caption) {
    return (caption_image.index_select(0, caption) == image).to(at::kFloat) - 0.5;
  };
}

TEST(MatchingPairs, RandomOnesAreBalancedUniformAndAlwaysTheSame) {
  const MatchingPairs pairs = random_pairs(owners(), 4);
  EXPECT_EQ(pairs.image.size(0), 8);
  expect_sound(pairs, owners());
  EXPECT_TRUE(at::equal(pairs.caption, random_pairs(owners(), 4).caption));
  // Over many images each of whom has one caption, the wrong ones spread over the set.
  const at::Tensor own = at::arange(4000);
  const MatchingPairs many = random_pairs(own, 4000);
  expect_sound(many, own);
  const at::Tensor wrong = many.caption.masked_select(many.is_match.logical_not());
  EXPECT_NEAR(wrong.to(at::kDouble).mean().item<double>(), 2000, 80);
  EXPECT_NEAR(wrong.lt(1000).to(at::kDouble).mean().item<double>(), 0.25, 0.035);
}

TEST(MatchingPairs, TheHardestAreTheMostSimilarWrongCaptions) {
  at::manual_seed(2);
  const at::Tensor image = at::randn({4, 6}), text = at::randn({12, 6});
  const MatchingPairs pairs = hardest_pairs(image, text, owners());
  EXPECT_EQ(pairs.image.size(0), 24);
  expect_sound(pairs, owners());
  EXPECT_EQ(distinct(pairs).size(), 24u);
  const at::Tensor scores = at::matmul(image, text.t());
  for (std::int64_t row = 0; row < 4; ++row) {
    const at::Tensor taken =
        pairs.caption.masked_select((pairs.image == row).logical_and(pairs.is_match.logical_not()));
    const at::Tensor is_wrong = owners() != row;
    const double lowest_taken = scores[row].index_select(0, taken).min().item<double>();
    EXPECT_EQ(scores[row].masked_select(is_wrong).ge(lowest_taken).sum().item<std::int64_t>(), taken.size(0));
  }
}

TEST(MatchingPairs, TooFewWrongCaptionsKeepTheBalance) {
  const at::Tensor caption_image = at::tensor(std::vector<std::int64_t>{0, 0, 0, 1}, at::kLong);
  const MatchingPairs pairs = hardest_pairs(at::randn({2, 3}), at::randn({4, 3}), caption_image);
  expect_sound(pairs, caption_image);
  EXPECT_EQ(pairs.image.size(0), 4);
}

TEST(MatchingAccuracy, IsOneForAPerfectHeadAndHalfForAConstantOne) {
  const MatchingPairs pairs = random_pairs(owners(), 4);
  const MatchingAccuracy best = matching_accuracy(pairs, perfect(owners()), 3);
  EXPECT_EQ(best.accuracy, 1);
  EXPECT_EQ(best.auc, 1);
  EXPECT_EQ(best.pairs, 8);
  for (const float constant : {-2.0F, 0.0F, 3.0F}) {
    const MatchingAccuracy same = matching_accuracy(
        pairs,
        [&](const at::Tensor& image, const at::Tensor&) { return at::full({image.size(0)}, constant); }, 64);
    EXPECT_EQ(same.accuracy, 0.5);
    EXPECT_EQ(same.auc, 0.5);
  }
}

/// A head that is right but leans to "no match" shows in the accuracy, not in the order.
TEST(MatchingAccuracy, AucIgnoresALeaning) {
  const auto leaning = [](const at::Tensor& image, const at::Tensor& caption) {
    return perfect(owners())(image, caption) - 5;
  };
  const MatchingAccuracy result = matching_accuracy(random_pairs(owners(), 4), leaning, 5);
  EXPECT_EQ(result.accuracy, 0.5);
  EXPECT_EQ(result.accuracy_of_others, 1);
  EXPECT_EQ(result.auc, 1);
}

TEST(MatchingAccuracy, AucEqualsCountingCombinations) {
  at::manual_seed(4);
  const at::Tensor own = at::arange(40);
  const MatchingPairs pairs = random_pairs(own, 40);
  const at::Tensor noise = at::randint(0, 5, {40, 40});
  const auto scorer = [&](const at::Tensor& image, const at::Tensor& caption) {
    return noise.index({image, caption}).to(at::kFloat) + (image == caption);
  };
  const at::Tensor scores = scorer(pairs.image, pairs.caption);
  const at::Tensor matches = scores.masked_select(pairs.is_match).unsqueeze(1);
  const at::Tensor others = scores.masked_select(pairs.is_match.logical_not());
  const double expected =
      (matches.gt(others).to(at::kDouble) + matches.eq(others).to(at::kDouble) / 2).mean().item<double>();
  EXPECT_NEAR(matching_accuracy(pairs, scorer, 7).auc, expected, 1e-12);
}

TEST(MatchingFigures, APerfectHeadFallsToChanceWithSwappedImages) {
  at::manual_seed(5);
  const at::Tensor caption_image = at::arange(60).repeat_interleave(5);
  const nlohmann::json json =
      matching_figures(at::randn({60, 8}), at::randn({300, 8}), caption_image, perfect(caption_image), 32);
  EXPECT_EQ(json.at("itm_accuracy"), 1.0);
  EXPECT_EQ(json.at("itm_accuracy_hard"), 1.0);
  EXPECT_EQ(json.at("itm_accuracy_chance"), 0.5);
  EXPECT_EQ(json.at("itm_accuracy_hard_chance"), 0.5);
  EXPECT_NEAR(json.at("itm_accuracy_swapped").get<double>(), 0.5, 0.05);
  EXPECT_NEAR(json.at("itm_accuracy_hard_swapped").get<double>(), 0.5, 0.05);
  EXPECT_EQ(json.at("itm_pairs"), 120);
  EXPECT_EQ(json.at("itm_pairs_hard"), 600);
}

TEST(MatchingAccuracy, RefusesScoresThatAreNotFinite) {
  const auto broken = [](const at::Tensor& image, const at::Tensor&) {
    return at::full({image.size(0)}, std::numeric_limits<float>::quiet_NaN());
  };
  EXPECT_THROW(matching_accuracy(random_pairs(owners(), 4), broken, 4), Error);
  EXPECT_THROW(random_pairs(owners(), 5), Error) << "image 4 has no caption";
}

}  // namespace
}  // namespace tessera::eval
