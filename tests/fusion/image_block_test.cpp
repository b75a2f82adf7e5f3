#include "fusion/image_block.h"

#include "tests/fusion/small_tower.h"

namespace tessera::fusion {
namespace {

ImageBlock block_with_gate(double gate) {
  torch::manual_seed(5);
  ImageBlock block(ImageBlockOptions{.hidden_size = kImageSize,
                                     .text_size = kTextSize,
                                     .attention_heads = 2,
                                     .mlp_ratio = 2,
                                     .cross_attention_heads = 4});
  block->to(torch::kDouble);
  spread_weights(*block, 6);
  const torch::NoGradGuard no_grad;
  block->cross_attention->gate.fill_(gate);
  return block;
}

TEST(ImageBlock, FusedThroughAClosedGateIsUnfused) {
  auto block = block_with_gate(0.0);
  const auto image = normal({2, 5, kImageSize});
  const auto keys = block->cross_attention->keys(normal({2, 3, kTextSize}));
  EXPECT_TRUE(torch::equal(block->forward(image, &keys), block->forward(image, nullptr)));
  auto open = block_with_gate(0.5);
  EXPECT_FALSE(close(open->forward(image, &keys), open->forward(image, nullptr)));
}

TEST(ImageBlock, TheGateIsOnTheTextAlone) {
  const auto image = normal({2, 5, kImageSize});
  EXPECT_TRUE(torch::equal(block_with_gate(0.9)->forward(image, nullptr),
                           block_with_gate(0.1)->forward(image, nullptr)));
}

TEST(ImageBlock, TokensAndRowsMoveWithTheirPlaces) {
  auto block = block_with_gate(-0.5);
  const auto image = normal({3, 5, kImageSize});
  const auto keys = block->cross_attention->keys(normal({3, 4, kTextSize}), right_padded({4, 2, 1}, 4));
  const auto out = block->forward(image, &keys);
  const auto tokens = torch::tensor({4, 2, 0, 1, 3}), rows = torch::tensor({1, 2, 0});
  EXPECT_TRUE(close(block->forward(image.index_select(1, tokens), &keys), out.index_select(1, tokens)));
  const auto turned = keys.select(rows);
  EXPECT_TRUE(close(block->forward(image.index_select(0, rows), &turned), out.index_select(0, rows)));
}

TEST(ImageBlock, GradientsAreThoseOfDifferences) {
  auto block = block_with_gate(0.5);
  const auto image = normal({2, 4, kImageSize}).requires_grad_();
  const auto text = normal({2, 3, kTextSize}).requires_grad_();
  const auto cotangent = normal({2, 4, kImageSize});
  std::vector<at::Tensor> leaves = block->parameters();
  leaves.push_back(image);
  leaves.push_back(text);
  expect_gradients(
      [&] {
        const auto keys = block->cross_attention->keys(text, right_padded({3, 2}, 3));
        return (block->forward(image, &keys) * cotangent).sum();
      },
      leaves);
}

TEST(ImageBlock, RefusesWhatDoesNotFit) {
  EXPECT_THROW(ImageBlock(ImageBlockOptions{.hidden_size = 10, .attention_heads = 4}), c10::Error);
  EXPECT_THROW(block_with_gate(0.5)->forward(normal({2, 5, kImageSize + 1}), nullptr), c10::Error);
}

}  // namespace
}  // namespace tessera::fusion
