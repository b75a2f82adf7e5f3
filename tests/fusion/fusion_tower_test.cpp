#include "fusion/fusion_tower.h"

#include <set>

#include "fusion/match_head.h"
#include "tests/fusion/small_tower.h"

namespace tessera::fusion {
namespace {

using language::AttentionMode;

constexpr auto kCausal = AttentionMode::kCausal;
constexpr auto kBidirectional = AttentionMode::kBidirectional;

/// Three images of six tokens with texts of 7, 4 and 2.
struct Pairs {
  at::Tensor image = normal({3, 6, kImageSize});
  at::Tensor ids = random_ids(3, 7);
  at::Tensor mask = right_padded({7, 4, 2}, 7);
};

TEST(FusionTower, ClosedGatesAreTheDualEncoderBitForBit) {
  SmallTower closed = small_tower(0.0);
  const Pairs pairs;
  const FusedStates fused = closed.fused(pairs.image, pairs.ids, pairs.mask);
  const at::Tensor image = closed.tower->image_states(pairs.image).back();
  const at::Tensor text = closed.unfused_text(pairs.ids, pairs.mask, kBidirectional);
  EXPECT_TRUE(torch::equal(fused.image, image));
  EXPECT_TRUE(torch::equal(fused.text, text));
  EXPECT_TRUE(torch::equal(text, closed.language->hidden_states(pairs.ids, pairs.mask, kBidirectional)));

  MatchHead head(MatchHeadOptions{kImageSize, kTextSize});
  head->to(torch::kDouble);
  EXPECT_TRUE(torch::equal(head->forward(fused.image, fused.text, pairs.mask),
                           head->forward(image, text, pairs.mask)));
}

TEST(FusionTower, ClosedGatesMakeACaptionThePlainLanguageModel) {
  SmallTower closed = small_tower(0.0);
  const Pairs pairs;
  const at::Tensor plain = closed.language->hidden_states(pairs.ids, {}, kCausal);
  const auto states = closed.tower->image_states(pairs.image);
  const at::Tensor memory = normal({3, kCodeSize});
  EXPECT_TRUE(torch::equal(closed.caption(pairs.ids, {states, {}, {}}), plain));
  EXPECT_TRUE(torch::equal(closed.caption(pairs.ids, {{}, memory, {}}), plain));
  EXPECT_TRUE(
      torch::equal(closed.caption(pairs.ids, {states, memory, torch::tensor({true, false, true})}), plain));
}

TEST(FusionTower, OpenGatesFuse) {
  SmallTower open = small_tower(0.5);
  const Pairs pairs;
  const FusedStates fused = open.fused(pairs.image, pairs.ids, pairs.mask);
  EXPECT_FALSE(close(fused.image, open.tower->image_states(pairs.image).back(), 0.01));
  EXPECT_FALSE(close(fused.text, open.unfused_text(pairs.ids, pairs.mask, kBidirectional), 0.01));
}

TEST(FusionTower, PaddingChangesNothingOnEitherSide) {
  SmallTower open = small_tower(0.5);
  const Pairs pairs;
  const auto of_real_tokens = [&](const at::Tensor& text) {
    return text.slice(1, 0, 7).masked_select(pairs.mask.unsqueeze(-1));
  };
  const FusedStates before = open.fused(pairs.image, pairs.ids, pairs.mask);
  const at::Tensor other_ids = pairs.ids.masked_fill(pairs.mask.logical_not(), 3);
  ASSERT_FALSE(torch::equal(other_ids, pairs.ids));
  const FusedStates content = open.fused(pairs.image, other_ids, pairs.mask);
  EXPECT_TRUE(torch::equal(before.image, content.image));
  EXPECT_TRUE(torch::equal(of_real_tokens(before.text), of_real_tokens(content.text)));

  const FusedStates length = open.fused(pairs.image, torch::constant_pad_nd(pairs.ids, {0, 5}, 0),
                                        torch::constant_pad_nd(pairs.mask, {0, 5}, 0));
  EXPECT_TRUE(close(before.image, length.image));
  EXPECT_TRUE(close(of_real_tokens(before.text), of_real_tokens(length.text)));
}

TEST(FusionTower, TheFirstSelfAttentionMayComeFromAnotherPass) {
  SmallTower open = small_tower(0.5);
  const Pairs pairs;
  const at::Tensor lower = open.lower(pairs.ids, pairs.mask, kBidirectional);
  const auto context = open.context(pairs.mask, pairs.ids.size(1), kBidirectional);
  const FirstAttention attended{open.tower->attended_image(pairs.image),
                                open.attended(pairs.ids, pairs.mask, kBidirectional)};
  const PairRows rows{torch::tensor({0, 2, 1}), torch::tensor({1, 2, 1})};
  const FusedStates own = open.fused(pairs.image, pairs.ids, pairs.mask, rows);
  const FusedStates given =
      open.tower->fused(open.language, pairs.image, lower, pairs.mask, context, rows, attended);
  EXPECT_TRUE(torch::equal(given.image, own.image));
  EXPECT_TRUE(torch::equal(given.text, own.text));
  EXPECT_TRUE(torch::equal(open.tower->image_states(pairs.image, attended.image).back(),
                           open.tower->image_states(pairs.image).back()));
}

TEST(FusionTower, PairsMayShareImagesAndTexts) {
  SmallTower open = small_tower(0.5);
  const Pairs pairs;
  const PairRows rows{torch::tensor({0, 2, 2, 1, 0}), torch::tensor({0, 1, 2, 2, 1})};
  const auto images = [&](const at::Tensor& all) { return all.index_select(0, rows.image); };
  const auto texts = [&](const at::Tensor& all) { return all.index_select(0, rows.text); };
  const FusedStates expected = open.fused(images(pairs.image), texts(pairs.ids), texts(pairs.mask));
  const FusedStates shared = open.fused(pairs.image, pairs.ids, pairs.mask, rows);
  EXPECT_TRUE(close(shared.image, expected.image));
  EXPECT_TRUE(close(shared.text, expected.text));

  const at::Tensor weights = normal({kImageSize});
  const auto gradients = [&](const FusedStates& fused) {
    return torch::autograd::grad({(fused.image * weights).sum() + fused.text.square().sum()},
                                 open.parameters(), {}, true, false, /*allow_unused=*/true);
  };
  const auto of_shared = gradients(shared), of_expected = gradients(expected);
  for (std::size_t i = 0; i < of_shared.size(); ++i) {
    ASSERT_EQ(of_shared[i].defined(), of_expected[i].defined()) << i;
    if (of_shared[i].defined()) {
      EXPECT_TRUE(close(of_shared[i], of_expected[i], 1e-8)) << i;
    }
  }
}

TEST(FusionTower, PairsDependOnNoOther) {
  SmallTower open = small_tower(0.5);
  const Pairs pairs;
  const auto order = torch::tensor({2, 0, 1});
  const auto turned = [&](const at::Tensor& rows) { return rows.index_select(0, order); };
  const FusedStates before = open.fused(pairs.image, pairs.ids, pairs.mask);
  const FusedStates after = open.fused(turned(pairs.image), turned(pairs.ids), turned(pairs.mask));
  EXPECT_TRUE(close(turned(before.image), after.image));
  EXPECT_TRUE(close(turned(before.text), after.text));

  const auto memory = normal({3, kCodeSize});
  const at::Tensor caption = open.caption(pairs.ids, {open.tower->image_states(pairs.image), memory, {}});
  EXPECT_TRUE(close(
      turned(caption),
      open.caption(turned(pairs.ids), {open.tower->image_states(turned(pairs.image)), turned(memory), {}})));
}

TEST(FusionTower, NoLaterTokenReachesEarlierCaptionStates) {
  SmallTower open = small_tower(0.7);
  const Pairs pairs;
  const auto states = open.tower->image_states(pairs.image);
  const auto memory = normal({3, kCodeSize});
  const std::vector<CaptionCondition> conditions = {{states, {}, {}}, {states, memory, {}}, {{}, memory, {}}};
  for (std::int64_t changed = 1; changed < 7; ++changed) {
    at::Tensor other = pairs.ids.clone();
    other.select(1, changed).copy_((other.select(1, changed) - 4).remainder(12) + 5);
    ASSERT_TRUE(other.ne(pairs.ids).select(1, changed).all().item<bool>());
    for (const CaptionCondition& condition : conditions) {
      const at::Tensor before = open.caption_logits(pairs.ids, condition);
      const at::Tensor after = open.caption_logits(other, condition);
      EXPECT_TRUE(torch::equal(before.slice(1, 0, changed), after.slice(1, 0, changed))) << changed;
      EXPECT_FALSE(close(before.select(1, changed), after.select(1, changed))) << changed;
    }
    // The same change is seen where text is fused both ways: this test could tell.
    const at::Tensor all = torch::ones_like(pairs.mask);
    EXPECT_FALSE(close(open.fused(pairs.image, pairs.ids, all).text.select(1, 0),
                       open.fused(pairs.image, other, all).text.select(1, 0)));
  }
}

/// Where one side moved before the other read it, its layer would show in what the other reads.
TEST(FusionTower, EachSideOfALevelReadsTheOtherAsItWasBefore) {
  const Pairs pairs;
  SmallTower one = small_tower(0.7, /*levels=*/1);
  const FusedStates before = one.fused(pairs.image, pairs.ids, pairs.mask);
  {
    const torch::NoGradGuard no_grad;
    language::DecoderLayerImpl& layer = one.language->layer(1);
    for (at::Tensor& parameter : layer.parameters()) parameter.mul_(1.5);
  }
  const FusedStates text_layer_changed = one.fused(pairs.image, pairs.ids, pairs.mask);
  EXPECT_FALSE(close(before.text, text_layer_changed.text, 1e-3));
  EXPECT_TRUE(torch::equal(before.image, text_layer_changed.image));

  one = small_tower(0.7, /*levels=*/1);
  {
    const torch::NoGradGuard no_grad;
    one.tower->image_block(0).query_key_value->weight.mul_(1.5);
    one.tower->image_block(0).down->weight.mul_(1.5);
  }
  const FusedStates image_block_changed = one.fused(pairs.image, pairs.ids, pairs.mask);
  EXPECT_FALSE(close(before.image, image_block_changed.image, 1e-3));
  EXPECT_TRUE(torch::equal(before.text, image_block_changed.text));
}

TEST(FusionTower, CaptionsReadTheImageStateOfTheirLevel) {
  SmallTower open = small_tower(0.7);
  const Pairs pairs;
  const auto states = open.tower->image_states(pairs.image);
  const at::Tensor before = open.caption(pairs.ids, {states, {}, {}});
  for (std::size_t changed = 0; changed < states.size(); ++changed) {
    auto others = states;
    others[changed] = others[changed] + 1.0 * normal(others[changed].sizes());
    const bool last = changed + 1 == states.size();
    EXPECT_EQ(torch::equal(before, open.caption(pairs.ids, {others, {}, {}})), last) << changed;
  }
}

TEST(FusionTower, ARowWithoutItsReadOutSeesTheImageAlone) {
  SmallTower open = small_tower(0.7);
  const Pairs pairs;
  const auto states = open.tower->image_states(pairs.image);
  const auto memory = normal({3, kCodeSize});
  const at::Tensor mixed = open.caption(pairs.ids, {states, memory, torch::tensor({true, false, true})});
  const at::Tensor with = open.caption(pairs.ids, {states, memory, {}});
  const at::Tensor without = open.caption(pairs.ids, {states, {}, {}});
  EXPECT_TRUE(close(mixed[0], with[0]));
  EXPECT_TRUE(close(mixed[1], without[1]));
  EXPECT_TRUE(close(mixed[2], with[2]));
  EXPECT_FALSE(close(with[1], without[1], 1e-4));
}

TEST(FusionTower, ATextOfPaddingAloneIsFinite) {
  SmallTower open = small_tower(0.7);
  const Pairs pairs;
  const at::Tensor mask = right_padded({7, 0, 2}, 7);
  const FusedStates fused = open.fused(pairs.image, pairs.ids, mask);
  (fused.image.sum() + fused.text.sum()).backward();
  EXPECT_TRUE(fused.image.isfinite().all().item<bool>());
  EXPECT_TRUE(fused.text.isfinite().all().item<bool>());
  for (const at::Tensor& parameter : open.tower->parameters()) {
    if (parameter.grad().defined()) {
      EXPECT_TRUE(parameter.grad().isfinite().all().item<bool>());
    }
  }
}

TEST(FusionTower, GradientsOfAllPassesAreThoseOfDifferences) {
  SmallTower open = small_tower(0.6);
  const Pairs pairs;
  const auto image = pairs.image.clone().requires_grad_(), memory = normal({3, kCodeSize}).requires_grad_();
  const auto image_cotangent = normal({3, 6, kImageSize}), text_cotangent = normal({3, 7, kTextSize});
  std::vector<at::Tensor> leaves = open.tower->parameters();
  for (std::int64_t layer = 0; layer < 3; ++layer) {
    for (const at::Tensor& parameter : open.language->layer(layer).parameters()) leaves.push_back(parameter);
  }
  leaves.push_back(image);
  leaves.push_back(memory);
  expect_gradients(
      [&] {
        const FusedStates fused = open.fused(image, pairs.ids, pairs.mask);
        const auto states = open.tower->image_states(image);
        const at::Tensor caption =
            open.caption(pairs.ids, {states, memory, torch::tensor({true, false, true})});
        const at::Tensor real = (fused.text + caption) * pairs.mask.unsqueeze(-1);
        return ((fused.image + states.back()) * image_cotangent).sum() + (real * text_cotangent).sum();
      },
      leaves);
}

/// Names of the tower's parameters that keep their gradient under a use.
std::set<std::string> trainable(const FusionUse& use) {
  SmallTower small = small_tower(0.5);
  small.tower->freeze_unused(use);
  std::set<std::string> names;
  for (const auto& item : small.tower->named_parameters()) {
    if (item.value().requires_grad()) names.insert(item.key());
  }
  return names;
}

/// Names of those that a use reaches with a gradient other than 0.
std::set<std::string> reached(const FusionUse& use) {
  SmallTower small = small_tower(0.5);
  const Pairs pairs;
  at::Tensor sum = torch::zeros({}, torch::kDouble);
  const auto states = small.tower->image_states(pairs.image);
  if (use.encodes) sum = sum + states.back().square().sum();
  if (use.matches) {
    const FusedStates fused = small.fused(pairs.image, pairs.ids, pairs.mask);
    sum = sum + fused.image.square().sum() + fused.text.pow(3).sum();
  }
  if (use.decodes) {
    const at::Tensor memory = use.remembers ? normal({3, kCodeSize}) : at::Tensor();
    sum = sum + small.caption(pairs.ids, {states, memory, {}}).pow(3).sum();
  }
  sum.backward();
  std::set<std::string> names;
  for (const auto& item : small.tower->named_parameters()) {
    const at::Tensor& gradient = item.value().grad();
    // A key's bias shifts all scores of a query alike: its gradient is rounding.
    if (gradient.defined() && gradient.abs().max().item<double>() > 1e-12) names.insert(item.key());
  }
  return names;
}

TEST(FusionTower, FreezesExactlyWhatIsNotRead) {
  for (int bits = 1; bits < 8; ++bits) {
    for (const bool remembers : {false, true}) {
      const FusionUse use{(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0, remembers && (bits & 4) != 0};
      EXPECT_EQ(trainable(use), reached(use)) << bits << " " << use.remembers;
    }
  }
}

TEST(FusionTower, RefusesWhatDoesNotFit) {
  SmallTower open = small_tower(0.5);
  const Pairs pairs;
  const auto states = open.tower->image_states(pairs.image);
  const auto memory = normal({3, kCodeSize});
  EXPECT_THROW(open.tower->caption_keys({}), c10::Error);
  EXPECT_THROW(open.tower->caption_keys({{states[0]}, {}, {}}), c10::Error);
  EXPECT_THROW(open.tower->caption_keys({{}, memory, torch::ones({3}, torch::kBool)}), c10::Error);
  EXPECT_THROW(open.fused(pairs.image.slice(0, 0, 2), pairs.ids, pairs.mask), c10::Error);
  EXPECT_THROW(FusionTower(FusionConfig{.levels = 0}, FusionTowerSizes{}), c10::Error);
  FusionTower deeper(
      FusionConfig{.levels = 4},
      FusionTowerSizes{
          .image_size = kImageSize, .text_size = kTextSize, .code_size = kCodeSize, .read_tokens = 1});
  EXPECT_THROW(deeper->lower_text(open.language, pairs.ids, open.context({}, 7, kCausal)), c10::Error);
}

}  // namespace
}  // namespace tessera::fusion
