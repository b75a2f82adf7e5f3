#include "fusion/gated_cross_attention.h"

#include "core/autocast.h"
#include "core/device.h"
#include "tests/fusion/small_tower.h"

namespace tessera::fusion {
namespace {

GatedCrossAttention attention_with_gate(double gate) {
  torch::manual_seed(7);
  GatedCrossAttention module(
      GatedCrossAttentionOptions{.query_size = kTextSize, .context_size = kImageSize, .heads = 3});
  module->to(torch::kDouble);
  spread_weights(*module, 8);
  const torch::NoGradGuard no_grad;
  module->gate.fill_(gate);
  return module;
}

TEST(GatedCrossAttention, ItsGateIsClosedAtFirst) {
  GatedCrossAttention module(GatedCrossAttentionOptions{.query_size = 12, .context_size = 8, .heads = 3});
  const auto hidden = torch::randn({2, 4, 12});
  EXPECT_TRUE(torch::equal(module->forward(hidden, module->keys(torch::randn({2, 5, 8}))), hidden));
}

TEST(GatedCrossAttention, AGateOfTheOtherSignAddsTheOpposite) {
  auto module = attention_with_gate(0.8);
  const auto hidden = normal({2, 4, kTextSize}), context = normal({2, 5, kImageSize});
  const auto added = module->forward(hidden, module->keys(context)) - hidden;
  EXPECT_GT(added.abs().max().item<double>(), 0.1);
  {
    const torch::NoGradGuard no_grad;
    module->gate.neg_();
  }
  EXPECT_TRUE(close(module->forward(hidden, module->keys(context)) - hidden, -added));
}

TEST(GatedCrossAttention, PaddingOfTheContextChangesNothing) {
  auto module = attention_with_gate(0.8);
  const auto hidden = normal({3, 4, kTextSize});
  auto context = normal({3, 5, kImageSize});
  const auto mask = right_padded({5, 3, 1}, 5);
  const auto before = module->forward(hidden, module->keys(context, mask));
  EXPECT_FALSE(close(before, module->forward(hidden, module->keys(context))));
  context.masked_fill_(mask.logical_not().unsqueeze(-1), 1e3);
  EXPECT_TRUE(torch::equal(before, module->forward(hidden, module->keys(context, mask))));
  const auto longer = torch::cat({context, normal({3, 6, kImageSize})}, 1);
  EXPECT_TRUE(close(before, module->forward(hidden, module->keys(longer, right_padded({5, 3, 1}, 11)))));
}

TEST(GatedCrossAttention, RowWithNothingToReadIsFiniteWithItsGradients) {
  auto module = attention_with_gate(0.8);
  const auto context = normal({2, 5, kImageSize}).requires_grad_();
  const auto out = module->forward(normal({2, 4, kTextSize}), module->keys(context, right_padded({0, 5}, 5)));
  EXPECT_TRUE(out.isfinite().all().item<bool>());
  out.sum().backward();
  EXPECT_TRUE(context.grad().isfinite().all().item<bool>());
}

TEST(GatedCrossAttention, RowsDependOnNoOther) {
  auto module = attention_with_gate(-0.6);
  const auto hidden = normal({3, 4, kTextSize}), context = normal({3, 5, kImageSize});
  const auto mask = right_padded({5, 3, 1}, 5), order = torch::tensor({2, 0, 1});
  const auto out = module->forward(hidden, module->keys(context, mask));
  EXPECT_TRUE(close(out.index_select(0, order), module->forward(hidden.index_select(0, order),
                                                                module->keys(context, mask).select(order))));
}

TEST(GatedCrossAttention, ReadsASetOfTokens) {
  auto module = attention_with_gate(0.6);
  const auto hidden = normal({2, 4, kTextSize}), context = normal({2, 5, kImageSize});
  const auto turned = context.index_select(1, torch::tensor({3, 1, 4, 0, 2}));
  EXPECT_TRUE(
      close(module->forward(hidden, module->keys(context)), module->forward(hidden, module->keys(turned))));
}

TEST(GatedCrossAttention, GradientsAreThoseOfDifferences) {
  for (const double gate : {0.7, -0.4}) {
    auto module = attention_with_gate(gate);
    const auto hidden = normal({2, 3, kTextSize}).requires_grad_();
    const auto context = normal({2, 4, kImageSize}).requires_grad_();
    const auto mask = right_padded({4, 2}, 4);
    const auto cotangent = normal({2, 3, kTextSize});
    std::vector<at::Tensor> leaves = module->parameters();
    leaves.push_back(hidden);
    leaves.push_back(context);
    expect_gradients([&] { return (module->forward(hidden, module->keys(context, mask)) * cotangent).sum(); },
                     leaves);
  }
}

TEST(GatedCrossAttention, AClosedGateStillLearns) {
  auto module = attention_with_gate(0.0);
  module->forward(normal({2, 3, kTextSize}), module->keys(normal({2, 4, kImageSize})))
      .square()
      .sum()
      .backward();
  EXPECT_NE(module->gate.grad().item<double>(), 0.0);
  EXPECT_EQ(module->query->weight.grad().abs().max().item<double>(), 0.0);
}

TEST(GatedCrossAttention, AutocastLeavesTheResidualStreamInFloat32) {
  auto module = attention_with_gate(0.5);
  module->to(torch::kFloat);
  const auto hidden = torch::randn({2, 4, kTextSize}), context = torch::randn({2, 5, kImageSize});
  const auto mask = right_padded({5, 3}, 5);
  const auto exact = module->forward(hidden, module->keys(context, mask));
  const AutocastScope autocast(Compute{c10::kCPU, c10::kBFloat16});
  const auto rounded = module->forward(hidden, module->keys(context, mask));
  EXPECT_EQ(rounded.scalar_type(), torch::kFloat);
  EXPECT_TRUE(torch::allclose(exact, rounded, 0.05, 0.1));
}

TEST(GatedCrossAttention, RefusesWhatDoesNotFit) {
  EXPECT_THROW(
      GatedCrossAttention(GatedCrossAttentionOptions{.query_size = 10, .context_size = 8, .heads = 3}),
      c10::Error);
  auto module = attention_with_gate(0.5);
  const auto context = normal({2, 5, kImageSize});
  EXPECT_THROW(module->keys(normal({2, 5, kImageSize + 1})), c10::Error);
  EXPECT_THROW(module->keys(context, torch::ones({2, 4}, torch::kBool)), c10::Error);
  EXPECT_THROW(module->keys(context, torch::ones({2, 5}, torch::kLong)), c10::Error);
  EXPECT_THROW(module->forward(normal({3, 4, kTextSize}), module->keys(context)), c10::Error);
}

}  // namespace
}  // namespace tessera::fusion
