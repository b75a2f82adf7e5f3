#include "fusion/match_head.h"

#include "fusion/match_scores.h"
#include "tests/fusion/small_tower.h"

namespace tessera::fusion {
namespace {

MatchHead small_head() {
  torch::manual_seed(4);
  MatchHead head(MatchHeadOptions{kImageSize, kTextSize});
  head->to(torch::kDouble);
  return head;
}

TEST(MatchHead, PaddingAndBatchOrderChangeNothing) {
  auto head = small_head();
  const auto image = normal({3, 5, kImageSize});
  auto text = normal({3, 4, kTextSize});
  const auto mask = right_padded({4, 2, 1}, 4);
  const auto before = head->forward(image, text, mask);
  EXPECT_EQ(before.sizes(), (std::vector<std::int64_t>{3, 2}));
  text.masked_fill_(mask.logical_not().unsqueeze(-1), 1e3);
  EXPECT_TRUE(torch::equal(before, head->forward(image, text, mask)));
  EXPECT_TRUE(close(before, head->forward(image, torch::cat({text, text}, 1), right_padded({4, 2, 1}, 8))));
  const auto order = torch::tensor({1, 2, 0});
  EXPECT_TRUE(close(
      before.index_select(0, order),
      head->forward(image.index_select(0, order), text.index_select(0, order), mask.index_select(0, order))));
}

TEST(MatchHead, ReadsBothSidesAndTheirFirstTokensApart) {
  auto head = small_head();
  const auto image = normal({1, 5, kImageSize}), text = normal({1, 4, kTextSize});
  const auto mask = torch::ones({1, 4}, torch::kBool);
  const auto before = head->forward(image, text, mask);
  const auto turned = torch::tensor({1, 0, 2, 3}), turned_image = torch::tensor({1, 0, 2, 3, 4});
  const auto others = torch::tensor({0, 3, 1, 2}), other_patches = torch::tensor({0, 4, 3, 2, 1});
  EXPECT_FALSE(close(before, head->forward(image, text.index_select(1, turned), mask)));
  EXPECT_FALSE(close(before, head->forward(image.index_select(1, turned_image), text, mask)));
  EXPECT_TRUE(
      close(before, head->forward(image.index_select(1, other_patches), text.index_select(1, others), mask)));
}

TEST(MatchHead, GradientsAreThoseOfDifferences) {
  auto head = small_head();
  const auto image = normal({2, 5, kImageSize}).requires_grad_(),
             text = normal({2, 4, kTextSize}).requires_grad_();
  const auto cotangent = normal({2, 2});
  std::vector<at::Tensor> leaves = head->parameters();
  leaves.push_back(image);
  leaves.push_back(text);
  expect_gradients(
      [&] {
        return (head->forward(image, text, right_padded({4, 2}, 4)) * cotangent).sum();
      },
      leaves);
}

TEST(MatchHead, LogitsAreFloat32FromFewerBitsAndARowOfPaddingIsFinite) {
  auto head = small_head();
  head->to(torch::kBFloat16);
  const auto logits = head->forward(normal({1, 5, kImageSize}).to(torch::kBFloat16),
                                    normal({1, 4, kTextSize}).to(torch::kBFloat16), right_padded({0}, 4));
  EXPECT_EQ(logits.scalar_type(), torch::kFloat);
  EXPECT_TRUE(logits.isfinite().all().item<bool>());
}

TEST(MatchScores, AreTheLogOddsOfAMatchAmongAsManyRightAsWrongPairs) {
  const auto logits = normal({5, 2});
  // Bayes: of the pairs trained on, a third was right and two thirds were wrong.
  const auto right = logits.softmax(1).select(1, 1) / (1.0 / 3);
  const auto wrong = logits.softmax(1).select(1, 0) / (2.0 / 3);
  EXPECT_TRUE(close(match_scores(logits), (right / wrong).log()));
  // A head that only knows how many pairs were right is undecided.
  EXPECT_NEAR(match_scores(at::tensor({std::log(2.0), std::log(1.0)}).view({1, 2})).item<double>(), 0, 1e-12);
}

}  // namespace
}  // namespace tessera::fusion
