#include "eval/retrieval.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "tests/core/error_of.h"

namespace tessera::eval {
namespace {

at::Tensor indices(std::vector<std::int64_t> values) { return at::tensor(values, at::kLong); }

/// Ranks by sorting every query's candidates, wrong ones first among equals.
std::vector<int> ranks_by_sorting(const at::Tensor& scores, const std::function<bool(int, int)>& is_right) {
  std::vector<int> ranks;
  for (int query = 0; query < scores.size(0); ++query) {
    std::vector<std::pair<float, bool>> order;
    for (int candidate = 0; candidate < scores.size(1); ++candidate) {
      order.emplace_back(scores[query][candidate].item<float>(), is_right(query, candidate));
    }
    std::sort(order.begin(), order.end(), [](const auto& a, const auto& b) {
      return a.first != b.first ? a.first > b.first : a.second < b.second;
    });
    const auto first_right =
        std::find_if(order.begin(), order.end(), [](const auto& each) { return each.second; });
    ranks.push_back(static_cast<int>(first_right - order.begin()) + 1);
  }
  return ranks;
}

void expect_scores_of(const DirectionScores& scores, std::vector<int> ranks) {
  const auto recall = [&](int k) {
    return static_cast<double>(
               std::count_if(ranks.begin(), ranks.end(), [k](int rank) { return rank <= k; })) /
           static_cast<double>(ranks.size());
  };
  EXPECT_NEAR(scores.r1, recall(1), 1e-12);
  EXPECT_NEAR(scores.r5, recall(5), 1e-12);
  EXPECT_NEAR(scores.r10, recall(10), 1e-12);
  std::sort(ranks.begin(), ranks.end());
  EXPECT_EQ(scores.median_rank, (ranks[(ranks.size() - 1) / 2] + ranks[ranks.size() / 2]) / 2.0);
}

TEST(Retrieval, EqualsSortingForDifferentNumbersOfCaptions) {
  at::manual_seed(3);
  const std::int64_t images = 23;
  std::vector<std::int64_t> owners;
  for (std::int64_t image = 0; image < images; ++image) {
    owners.insert(owners.end(), static_cast<std::size_t>(1 + image % 4), image);
  }
  std::reverse(owners.begin(), owners.end());
  std::swap(owners.front(), owners.back());
  const at::Tensor caption_image = indices(owners);
  // Small integers: many exact ties, with right answers and among wrong ones.
  const at::Tensor image = at::randint(-1, 2, {images, 4}).to(at::kFloat);
  const at::Tensor noise = at::randint(0, 2, {caption_image.size(0), 4});
  const at::Tensor text = image.index_select(0, caption_image) + noise;
  const RetrievalScores scores = retrieval_scores(image, text, caption_image);
  const auto owner = [&](int caption) { return owners[static_cast<std::size_t>(caption)]; };
  expect_scores_of(scores.image_to_text, ranks_by_sorting(at::matmul(image, text.t()),
                                                          [&](int i, int c) { return owner(c) == i; }));
  expect_scores_of(scores.text_to_image, ranks_by_sorting(at::matmul(text, image.t()),
                                                          [&](int c, int i) { return owner(c) == i; }));
  EXPECT_EQ(scores.images, images);
  EXPECT_EQ(scores.captions, caption_image.size(0));
}

TEST(Retrieval, IsPerfectWhereEveryCaptionEqualsItsImage) {
  const at::Tensor image = at::eye(12);
  const at::Tensor caption_image = at::arange(12).repeat_interleave(5);
  const RetrievalScores scores = retrieval_scores(image, image.index_select(0, caption_image), caption_image);
  for (const DirectionScores& direction : {scores.image_to_text, scores.text_to_image}) {
    EXPECT_EQ(direction.r1, 1);
    EXPECT_EQ(direction.r10, 1);
    EXPECT_EQ(direction.median_rank, 1);
  }
  EXPECT_EQ(scores.mean_r1(), 1);
}

/// Embeddings that tell nothing apart must not look like a perfect model, as they do where ties favour the
/// right answer.
TEST(Retrieval, ConstantEmbeddingsScoreNoBetterThanChance) {
  at::manual_seed(9);
  const at::Tensor row = at::randn({1, 67});
  const at::Tensor caption_image = at::arange(101).repeat_interleave(3);
  const RetrievalScores scores =
      retrieval_scores(row.expand({101, 67}).contiguous(), row.expand({303, 67}).contiguous(), caption_image);
  EXPECT_EQ(scores.image_to_text.r10, 0);
  EXPECT_EQ(scores.text_to_image.r10, 0);
  EXPECT_EQ(scores.image_to_text.median_rank, 301) << "behind the 300 captions of other images";
  EXPECT_EQ(scores.text_to_image.median_rank, 101);
}

TEST(Retrieval, RandomEmbeddingsScoreChance) {
  at::manual_seed(10);
  const at::Tensor caption_image = at::arange(400);
  const RetrievalScores scores = retrieval_scores(at::randn({400, 16}), at::randn({400, 16}), caption_image);
  for (const DirectionScores& direction : {scores.image_to_text, scores.text_to_image}) {
    EXPECT_NEAR(direction.r10, 10.0 / 400, 0.03);
    EXPECT_NEAR(direction.median_rank, 200, 45);
  }
}

TEST(Retrieval, SlicesGiveWhatTheWholeGives) {
  // 4,000 × 6,000 scores are 192 MB: three slices an image direction and as many a text direction, the last
  // one short.
  at::manual_seed(11);
  const std::int64_t images = 3000, captions = 4000;
  const at::Tensor caption_image = at::cat({at::arange(images), at::arange(captions - images)});
  const at::Tensor image = at::randint(-3, 4, {images, 8}).to(at::kFloat);
  const at::Tensor text = image.index_select(0, caption_image) + at::randint(-2, 3, {captions, 8});
  const RetrievalScores scores = retrieval_scores(image, text, caption_image);
  const at::Tensor all = at::matmul(text, image.t());
  const at::Tensor own = all.gather(1, caption_image.unsqueeze(1));
  const at::Tensor text_ranks = all.ge(own).sum(1);
  EXPECT_NEAR(scores.text_to_image.r10, text_ranks.le(10).to(at::kDouble).mean().item<double>(), 1e-12);
  const at::Tensor is_own = caption_image.unsqueeze(1) == at::arange(images);
  const at::Tensor best = all.masked_fill(is_own.logical_not(), -1e9).amax(0);
  const at::Tensor image_ranks = 1 + all.ge(best).logical_and(is_own.logical_not()).sum(0);
  EXPECT_NEAR(scores.image_to_text.r10, image_ranks.le(10).to(at::kDouble).mean().item<double>(), 1e-12);
}

/// Each direction ranks by its own scores.
TEST(Retrieval, TakesEachDirectionsScoresFromItsOwnRows) {
  at::manual_seed(12);
  const at::Tensor caption_image = at::arange(40).remainder(8);
  const at::Tensor forward = at::randn({8, 40}), backward = at::randn({40, 8});
  const auto rows_of = [](const at::Tensor& matrix) {
    return [=](std::int64_t first, std::int64_t last) { return matrix.slice(0, first, last); };
  };
  const RetrievalScores scores = retrieval_scores({rows_of(forward), rows_of(backward)}, caption_image, 8);
  expect_scores_of(scores.image_to_text, ranks_by_sorting(forward, [](int i, int c) { return c % 8 == i; }));
  expect_scores_of(scores.text_to_image, ranks_by_sorting(backward, [](int c, int i) { return c % 8 == i; }));
  EXPECT_THROW(retrieval_scores({rows_of(backward), rows_of(backward)}, caption_image, 8), c10::Error);
}

TEST(Retrieval, IsWrittenWithTheNamesThatConfigurationsUse) {
  const RetrievalScores scores{{0.25, 0.5, 0.75, 3}, {0.125, 0.25, 0.5, 7.5}, 8, 40};
  EXPECT_EQ(to_json(scores), nlohmann::json::parse(R"({
    "image_to_text_r1": 0.25, "image_to_text_r5": 0.5, "image_to_text_r10": 0.75, "image_to_text_median_rank": 3.0,
    "text_to_image_r1": 0.125, "text_to_image_r5": 0.25, "text_to_image_r10": 0.5, "text_to_image_median_rank": 7.5,
    "mean_r1": 0.1875, "mean_r5": 0.375, "mean_r10": 0.625, "images": 8, "captions": 40})"));
}

TEST(Retrieval, RefusesWhatItCanNotScore) {
  const at::Tensor image = at::eye(3), text = at::eye(3), own = indices({0, 1, 2});
  EXPECT_EQ(error_of([&] {
              retrieval_scores(image, text, indices({0, 1, 3}));
            }),
            "retrieval: caption 2: expected an image from 0 to 2, found 3");
  EXPECT_EQ(error_of([&] {
              retrieval_scores(image, text, indices({0, 1, 1}));
            }),
            "retrieval: image 2 has no caption");
  EXPECT_EQ(error_of([&] { retrieval_scores(image, at::eye(4), own); }),
            "retrieval: text embeddings: expected [M >= 1, 3], found [4, 4]");
  EXPECT_EQ(error_of([&] {
              retrieval_scores(at::zeros({0, 3}), text, own);
            }),
            "retrieval: image embeddings: expected [N >= 1, D], found [0, 3]");
  EXPECT_THROW(retrieval_scores(image, text, own.to(at::kInt)), Error);
  at::Tensor broken = text.clone();
  broken[1][1] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(error_of([&] { retrieval_scores(image, broken, own); }),
            "retrieval: the score of image 0 and caption 1 is nan");
}

}  // namespace
}  // namespace tessera::eval
