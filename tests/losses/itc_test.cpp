#include "losses/itc.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "core/autocast.h"
#include "core/device.h"
#include "tests/losses/fake_ranks.h"
#include "tests/losses/made_up.h"

namespace tessera::losses {
namespace {

QueueView queue_of(std::vector<std::int64_t> image_ids, std::int64_t width) {
  const auto slots = static_cast<std::int64_t>(image_ids.size());
  return {unit_rows(slots, width), unit_rows(slots, width), ids(std::move(image_ids)),
          at::ones({slots}, at::kBool)};
}

ItcLossValue loss_of(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                     const std::optional<QueueView>& queue, SameId same_id = SameId::kPositive,
                     double temperature = 0.1) {
  SingleProcess single;
  return itc_loss(image, text, image_ids, queue, tau(temperature), same_id, single);
}

struct Differentiated {
  double loss;
  at::Tensor image;
  at::Tensor text;
};

Differentiated differentiate(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                             const std::optional<QueueView>& queue, SameId same_id = SameId::kPositive) {
  const at::Tensor image_leaf = image.clone().set_requires_grad(true);
  const at::Tensor text_leaf = text.clone().set_requires_grad(true);
  const at::Tensor loss = loss_of(image_leaf, text_leaf, image_ids, queue, same_id).mean();
  loss.backward();
  return {loss.item<double>(), image_leaf.grad(), text_leaf.grad()};
}

void expect_same(const Differentiated& a, const Differentiated& b) {
  EXPECT_NEAR(a.loss, b.loss, 1e-12);
  EXPECT_TRUE(at::allclose(a.image, b.image, 0, 1e-12));
  EXPECT_TRUE(at::allclose(a.text, b.text, 0, 1e-12));
}

/// One direction's mean, by loops over one query and one candidate at a time.
double direction_by_loops(const at::Tensor& query, const at::Tensor& key, const at::Tensor& image_ids,
                          const QueueView& queue, const at::Tensor& queued_key, SameId same_id,
                          double temperature) {
  double total = 0;
  const std::int64_t batch = query.size(0);
  for (std::int64_t i = 0; i < batch; ++i) {
    double partition = 0, of_positives = 0;
    int positives = 0;
    const auto count = [&](const at::Tensor& candidate, bool same) {
      const double score = query[i].dot(candidate).item<double>() / temperature;
      partition += std::exp(score);
      if (same) {
        of_positives += score;
        ++positives;
      }
    };
    for (std::int64_t j = 0; j < batch; ++j) {
      count(key[j], image_ids[i].item<std::int64_t>() == image_ids[j].item<std::int64_t>());
    }
    for (std::int64_t j = 0; j < queued_key.size(0); ++j) {
      const bool same = image_ids[i].item<std::int64_t>() == queue.image_ids[j].item<std::int64_t>();
      if (queue.usable[j].item<bool>() && !(same && same_id == SameId::kIgnore)) {
        count(queued_key[j], same);
      }
    }
    total += std::log(partition) - of_positives / positives;
  }
  return total / static_cast<double>(batch);
}

class ItcLoss : public ::testing::TestWithParam<SameId> {
 protected:
  void SetUp() override { at::manual_seed(7); }
};

TEST_P(ItcLoss, EqualsTheFormulaByLoops) {
  const at::Tensor image = unit_rows(5, 8), text = unit_rows(5, 8), image_ids = ids({3, 1, 3, 4, 5});
  QueueView queue = queue_of({1, 9, 3, 9, 8, 4, 4}, 8);
  queue.usable[1] = false;
  queue.usable[5] = false;
  const double expected =
      0.5 * (direction_by_loops(image, text, image_ids, queue, queue.text, GetParam(), 0.1) +
             direction_by_loops(text, image, image_ids, queue, queue.image, GetParam(), 0.1));
  EXPECT_NEAR(loss_of(image, text, image_ids, queue, GetParam()).mean().item<double>(), expected, 1e-12);
}

TEST_P(ItcLoss, AnEmptyQueueIsNoQueueExactly) {
  const at::Tensor image = unit_rows(4, 8), text = unit_rows(4, 8), image_ids = ids({1, 2, 2, 3});
  const auto without = differentiate(image, text, image_ids, std::nullopt, GetParam());
  QueueView unusable = queue_of({1, 2, 5}, 8);
  unusable.usable.fill_(false);
  for (const QueueView& queue : {unusable, queue_of({}, 8)}) {
    expect_same(differentiate(image, text, image_ids, queue, GetParam()), without);
  }
}

TEST_P(ItcLoss, OnlyUsableSlotsCountWhateverTheOthersHold) {
  const at::Tensor image = unit_rows(4, 8), text = unit_rows(4, 8), image_ids = ids({1, 2, 2, 3});
  const QueueView full = queue_of({1, 2, 5, 6, 7}, 8);
  QueueView part = full;
  part.usable = at::tensor({1, 0, 1, 0, 0}).to(at::kBool);
  const at::Tensor kept = ids({0, 2});
  const QueueView compact{full.image.index_select(0, kept), full.text.index_select(0, kept),
                          full.image_ids.index_select(0, kept), at::ones({2}, at::kBool)};
  const auto expected = differentiate(image, text, image_ids, compact, GetParam());
  expect_same(differentiate(image, text, image_ids, part, GetParam()), expected);
  for (const double content : {1e30, std::numeric_limits<double>::infinity(), std::nan("")}) {
    QueueView spoiled = part;
    spoiled.image = full.image.clone();
    spoiled.text = full.text.clone();
    for (const std::int64_t slot : {1, 3, 4}) {
      spoiled.image[slot].fill_(content);
      spoiled.text[slot].fill_(-content);
    }
    spoiled.image_ids = full.image_ids.clone();
    spoiled.image_ids[3] = 1;
    expect_same(differentiate(image, text, image_ids, spoiled, GetParam()), expected);
  }
}

TEST_P(ItcLoss, TwoRanksEqualOneWithTheDoubleBatch) {
  const at::Tensor image = unit_rows(6, 8), text = unit_rows(6, 8), image_ids = ids({1, 2, 3, 3, 4, 1});
  const QueueView queue = queue_of({3, 8, 9, 2}, 8);
  const auto whole = differentiate(image, text, image_ids, queue, GetParam());

  std::vector<std::vector<at::Tensor>> groups;
  for (const at::Tensor& tensor : {image, text}) {
    groups.push_back({tensor.slice(0, 0, 3).clone().set_requires_grad(true),
                      tensor.slice(0, 3, 6).clone().set_requires_grad(true)});
  }
  groups.push_back({image_ids.slice(0, 0, 3).clone(), image_ids.slice(0, 3, 6).clone()});
  std::vector<LossValue> parts;
  for (const std::size_t rank : {0u, 1u}) {
    FakeRanks ranks(static_cast<std::int64_t>(rank), groups);
    parts.push_back(
        itc_loss(groups[0][rank], groups[1][rank], groups[2][rank], queue, tau(0.1), GetParam(), ranks));
  }
  const at::Tensor loss = (parts[0].sum + parts[1].sum) / (parts[0].count + parts[1].count);
  loss.backward();
  expect_same({loss.item<double>(), at::cat({groups[0][0].grad(), groups[0][1].grad()}),
               at::cat({groups[1][0].grad(), groups[1][1].grad()})},
              whole);
}

TEST_P(ItcLoss, DoesNotDependOnTheOrderOfPairsOrSlots) {
  const at::Tensor image = unit_rows(5, 8), text = unit_rows(5, 8), image_ids = ids({1, 2, 2, 3, 4});
  const QueueView queue = queue_of({1, 2, 5, 6}, 8);
  const at::Tensor pairs = ids({3, 0, 4, 2, 1}), slots = ids({2, 3, 0, 1});
  const QueueView shuffled{queue.image.index_select(0, slots), queue.text.index_select(0, slots),
                           queue.image_ids.index_select(0, slots), queue.usable};
  const auto expected = differentiate(image, text, image_ids, queue, GetParam());
  const auto got = differentiate(image.index_select(0, pairs), text.index_select(0, pairs),
                                 image_ids.index_select(0, pairs), shuffled, GetParam());
  expect_same(got,
              {expected.loss, expected.image.index_select(0, pairs), expected.text.index_select(0, pairs)});
}

TEST_P(ItcLoss, ABatchOfOneImageAndAQueueOfItGiveNoNan) {
  const at::Tensor image = unit_rows(3, 8), text = unit_rows(3, 8), image_ids = ids({4, 4, 4});
  for (const std::optional<QueueView>& queue :
       {std::optional<QueueView>(), std::optional(queue_of({4, 4}, 8))}) {
    const auto result = differentiate(image, text, image_ids, queue, GetParam());
    EXPECT_TRUE(std::isfinite(result.loss));
    EXPECT_TRUE(result.image.isfinite().all().item<bool>());
    EXPECT_TRUE(result.text.isfinite().all().item<bool>());
  }
}

INSTANTIATE_TEST_SUITE_P(SameId, ItcLoss, ::testing::Values(SameId::kIgnore, SameId::kPositive),
                         [](const auto& info) {
                           return info.param == SameId::kIgnore ? "Ignore" : "Positive";
                         });

/// A queued caption of the image is a negative exactly when raising its score raises the loss.
at::Tensor gradient_of_queued_text(SameId same_id) {
  at::manual_seed(11);
  const at::Tensor image = unit_rows(2, 8), text = unit_rows(2, 8);
  QueueView queue = queue_of({1, 5}, 8);
  queue.text.set_requires_grad(true);
  // Image 1 alone is a query, so that what the queued text does for others can't hide what it does for it.
  SingleProcess single;
  itc_loss(image.slice(0, 0, 1), text.slice(0, 0, 1), ids({1}), queue, tau(0.1), same_id, single)
      .mean()
      .backward();
  return at::matmul(queue.text.grad(), image[0]);
}

TEST(ItcLossSameId, QueuedCaptionsOfTheImageAreNeverNegatives) {
  const at::Tensor ignored = gradient_of_queued_text(SameId::kIgnore);
  EXPECT_EQ(ignored[0].item<double>(), 0);
  EXPECT_GT(ignored[1].item<double>(), 0) << "a caption of another image is a negative";
  // As one of two positives its target is 1/2: its gradient is that of its probability minus 1/2.
  at::manual_seed(11);
  const at::Tensor image = unit_rows(2, 8), text = unit_rows(2, 8);
  const QueueView queue = queue_of({1, 5}, 8);
  const at::Tensor probabilities =
      (at::matmul(at::cat({text.slice(0, 0, 1), queue.text}), image[0]) / 0.1).softmax(0);
  const at::Tensor positive = gradient_of_queued_text(SameId::kPositive);
  EXPECT_NEAR(positive[0].item<double>(), 0.5 * (probabilities[1].item<double>() - 0.5) / 0.1, 1e-12);
}

TEST(ItcLossPositives, AreAMinimumWhereScoresOfAllCaptionsOfAnImageAgree) {
  // Two captions of one image, orthogonal images otherwise: the optimum gives each positive half.
  const at::Tensor image = at::eye(3, at::kDouble).index_select(0, ids({0, 0, 1}));
  const auto best = differentiate(image, image, ids({1, 1, 2}), std::nullopt);
  const at::Tensor tilted = at::eye(3, at::kDouble).index_select(0, ids({0, 2, 1}));
  EXPECT_LT(best.loss, differentiate(image, tilted, ids({1, 1, 2}), std::nullopt).loss);
  EXPECT_NEAR(best.loss, 2.0 / 3 * std::log(2), 1e-3);
}

TEST(ItcLossExcess, IsZeroForAModelThatTellsNothingApart) {
  const at::Tensor constant = at::full({4, 8}, 1 / std::sqrt(8.0), at::kDouble);
  QueueView queue = queue_of({1, 9, 9, 3, 2, 7}, 8);
  queue.image = constant[0].expand({6, 8}).clone();
  queue.text = queue.image.clone();
  queue.usable[4] = false;
  for (const SameId same_id : {SameId::kIgnore, SameId::kPositive}) {
    const auto value = loss_of(constant, constant, ids({1, 2, 2, 3}), queue, same_id);
    EXPECT_NEAR(value.excess().item<double>(), 0, 1e-12);
  }
  EXPECT_NEAR(queue.share_in_use().item<double>(), 5.0 / 6, 1e-6);
  const auto told =
      loss_of(at::eye(4, at::kDouble), at::eye(4, at::kDouble), ids({1, 2, 3, 4}), std::nullopt);
  EXPECT_NEAR(told.excess().item<double>(), told.mean().item<double>() - std::log(4.0), 1e-12);
}

TEST(ItcLossPrecision, StaysFloat32UnderAutocastAndFromBfloat16) {
  at::manual_seed(3);
  const at::Tensor image = unit_rows(6, 32, at::kFloat), text = unit_rows(6, 32, at::kFloat);
  const at::Tensor image_ids = ids({1, 2, 3, 4, 5, 6});
  SingleProcess single;
  const auto run = [&](const at::Tensor& images, const at::Tensor& texts) {
    return itc_loss(images, texts, image_ids, std::nullopt, tau(0.02), SameId::kIgnore, single).mean();
  };
  const at::Tensor plain = run(image, text);
  {
    const AutocastScope autocast(Compute{c10::kCPU, c10::kBFloat16});
    EXPECT_EQ(run(image, text).item<float>(), plain.item<float>());
  }
  const at::Tensor rounded = run(image.to(at::kBFloat16), text.to(at::kBFloat16));
  EXPECT_EQ(rounded.scalar_type(), at::kFloat);
  EXPECT_EQ(rounded.item<float>(),
            run(image.to(at::kBFloat16).to(at::kFloat), text.to(at::kBFloat16).to(at::kFloat)).item<float>());
}

TEST(ItcLossArguments, WrongShapesAndTypesAreRefused) {
  const at::Tensor image = unit_rows(3, 8), text = unit_rows(3, 8), image_ids = ids({1, 2, 3});
  EXPECT_THROW(loss_of(image, unit_rows(4, 8), image_ids, std::nullopt), c10::Error);
  EXPECT_THROW(loss_of(image, text, ids({1, 2}), std::nullopt), c10::Error);
  EXPECT_THROW(loss_of(image, text, image_ids.to(at::kInt), std::nullopt), c10::Error);
  EXPECT_THROW(loss_of(unit_rows(0, 8), unit_rows(0, 8), ids({}), std::nullopt), c10::Error);
  EXPECT_THROW(loss_of(image, text, image_ids, queue_of({1, 2}, 4)), c10::Error);
  QueueView queue = queue_of({1, 2}, 8);
  queue.usable = at::ones({2});
  EXPECT_THROW(loss_of(image, text, image_ids, queue), c10::Error);
}

}  // namespace
}  // namespace tessera::losses
