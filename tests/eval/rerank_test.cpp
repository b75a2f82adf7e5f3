#include "eval/rerank.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>

#include "core/error.h"

namespace tessera::eval {
namespace {

constexpr std::int64_t kImages = 30, kCaptions = 90;

at::Tensor owners_in_turn() { return at::arange(kCaptions).remainder(kImages); }

ScoreRows rows_of(const at::Tensor& matrix) {
  return [=](std::int64_t first, std::int64_t last) { return matrix.slice(0, first, last); };
}

RetrievalScorer itc() {
  at::manual_seed(1);
  const at::Tensor image = at::randn({kImages, 4});
  return embedding_scorer(image, image.index_select(0, owners_in_turn()) + at::randn({kCaptions, 4}));
}

/// [Q, k]: whether a candidate belongs to its query.
at::Tensor is_right(const at::Tensor& candidates, bool captions_ask) {
  const at::Tensor queries = at::arange(candidates.size(0)).unsqueeze(1);
  return captions_ask ? owners_in_turn().unsqueeze(1) == candidates
                      : owners_in_turn().index_select(0, candidates.flatten()).view_as(candidates) == queries;
}

using SecondLook = std::function<at::Tensor(const at::Tensor& candidates, bool captions_ask)>;

RetrievalScorer second_look(const RetrievalScorer& first, std::int64_t k, const SecondLook& score) {
  const at::Tensor captions = top_candidates(first.image_to_text, kImages, kCaptions, k);
  const at::Tensor images = top_candidates(first.text_to_image, kCaptions, kImages, k);
  return {reranked(first.image_to_text, {captions, score(captions, false)}),
          reranked(first.text_to_image, {images, score(images, true)})};
}

RetrievalScores scores_of(const RetrievalScorer& scorer) {
  return retrieval_scores(scorer, owners_in_turn(), kImages);
}

TEST(Rerank, TopCandidatesAreTheBest) {
  const at::Tensor matrix = at::tensor({0.1, 0.9, 0.5, 0.3, 0.2, 0.8}).view({2, 3});
  EXPECT_TRUE(at::equal(top_candidates(rows_of(matrix), 2, 3, 2),
                        at::tensor(std::vector<std::int64_t>{1, 2, 2, 0}).view({2, 2})));
  EXPECT_EQ(top_candidates(rows_of(matrix), 2, 3, 9).size(1), 3);
}

TEST(Rerank, NoCandidatesLeaveTheFirstScores) {
  const auto none = [](const at::Tensor& candidates, bool) { return at::zeros(candidates.sizes()); };
  EXPECT_EQ(to_json(scores_of(second_look(itc(), 0, none))), to_json(scores_of(itc())));
}

TEST(Rerank, APerfectSecondLookReachesTheRecallAtK) {
  const RetrievalScores first = scores_of(itc());
  ASSERT_LT(first.text_to_image.r5, 1);
  const auto perfect = [](const at::Tensor& candidates, bool captions_ask) {
    return is_right(candidates, captions_ask).to(at::kFloat);
  };
  const RetrievalScores five = scores_of(second_look(itc(), 5, perfect));
  EXPECT_EQ(five.image_to_text.r1, first.image_to_text.r5);
  EXPECT_EQ(five.text_to_image.r1, first.text_to_image.r5);
  EXPECT_EQ(five.text_to_image.r10, first.text_to_image.r10) << "what wasn't looked at again keeps its place";
  const RetrievalScores all = scores_of(second_look(itc(), kCaptions, perfect));
  EXPECT_EQ(all.mean_r1(), 1);
}

TEST(Rerank, AnInvertedSecondLookPutsTheRightOnesLast) {
  const auto inverted = [](const at::Tensor& candidates, bool captions_ask) {
    return -is_right(candidates, captions_ask).to(at::kFloat);
  };
  EXPECT_EQ(scores_of(second_look(itc(), 5, inverted)).text_to_image.r1, 0);
}

TEST(Rerank, TheFirstScoresAsSecondOnesChangeNothing) {
  const RetrievalScorer first = itc();
  const auto same = [&](const at::Tensor& candidates, bool captions_ask) {
    const at::Tensor scores =
        captions_ask ? first.text_to_image(0, kCaptions) : first.image_to_text(0, kImages);
    return scores.gather(1, candidates) * 1e-6 - 1e6;  // any increasing function of them would do
  };
  const auto exact = [&](const at::Tensor& candidates, bool captions_ask) {
    const at::Tensor scores =
        captions_ask ? first.text_to_image(0, kCaptions) : first.image_to_text(0, kImages);
    return scores.gather(1, candidates);
  };
  EXPECT_EQ(to_json(scores_of(second_look(first, 7, exact))), to_json(scores_of(first)));
  // In float32 the first squeezes most scores into one; those ties count against.
  EXPECT_LE(scores_of(second_look(first, 7, same)).mean_r1(), scores_of(first).mean_r1());
}

TEST(Rerank, TiesCountAgainstTheRightAnswer) {
  const auto constant = [](const at::Tensor& candidates, bool) { return at::ones(candidates.sizes()); };
  const RetrievalScores scores = scores_of(second_look(itc(), 5, constant));
  EXPECT_EQ(scores.text_to_image.r1, 0);
  EXPECT_EQ(scores.text_to_image.r5, scores_of(itc()).text_to_image.r5);
}

/// Second scores of any size keep their order and their place above all others.
TEST(Rerank, HugeAndTinySecondScoresKeepTheirOrder) {
  const at::Tensor first = at::tensor({5.0, 1e8, 3.0, 4.0, 2.0}).view({1, 5});
  const Rescored rescored{at::tensor(std::vector<std::int64_t>{3, 0, 4}).view({1, 3}),
                          at::tensor({-1e30, 1e-30, 2e-30}).view({1, 3})};
  const at::Tensor order = std::get<1>(reranked(rows_of(first), rescored)(0, 1).sort(1, true));
  EXPECT_TRUE(at::equal(order, at::tensor(std::vector<std::int64_t>{4, 0, 3, 1, 2}).view({1, 5}))) << order;
}

TEST(Rerank, RefusesSecondScoresThatAreNotFinite) {
  const Rescored rescored{at::zeros({1, 1}, at::kLong),
                          at::full({1, 1}, std::numeric_limits<float>::infinity())};
  EXPECT_THROW(reranked(rows_of(at::ones({1, 3})), rescored), Error);
}

}  // namespace
}  // namespace tessera::eval
