#include "fusion/token_projections.h"

#include "tests/fusion/small_tower.h"

namespace tessera::fusion {
namespace {

TokenProjections small_projections() {
  torch::manual_seed(4);
  TokenProjections projections(TokenProjectionsOptions{kImageSize, kTextSize, 5});
  projections->to(torch::kDouble);
  return projections;
}

TEST(TokenProjections, EveryTokenButClsIsAUnitVectorOfItself) {
  auto projections = small_projections();
  auto image = normal({2, 5, kImageSize}), text = normal({2, 3, kTextSize});
  const auto patches = projections->patches(image), tokens = projections->text_tokens(text);
  EXPECT_EQ(patches.sizes(), (std::vector<std::int64_t>{2, 4, 5}));
  EXPECT_EQ(tokens.sizes(), (std::vector<std::int64_t>{2, 3, 5}));
  EXPECT_TRUE(close(patches.norm(2, {2}, false), torch::ones({2, 4}, torch::kDouble)));
  EXPECT_TRUE(close(tokens.norm(2, {2}, false), torch::ones({2, 3}, torch::kDouble)));

  image.select(1, 0).fill_(100.0);
  EXPECT_TRUE(torch::equal(patches, projections->patches(image)));
  image.select(1, 2).fill_(1.0);
  text.select(1, 1).fill_(1.0);
  const auto changed = projections->patches(image).ne(patches).any(2)[0];
  EXPECT_TRUE(torch::equal(changed, torch::tensor({false, true, false, false})));
  EXPECT_TRUE(
      torch::equal(projections->text_tokens(text).ne(tokens).any(2)[0], torch::tensor({false, true, false})));
}

TEST(TokenProjections, GradientsAreThoseOfDifferences) {
  auto projections = small_projections();
  const auto image = normal({2, 4, kImageSize}).requires_grad_(),
             text = normal({2, 3, kTextSize}).requires_grad_();
  const auto image_cotangent = normal({2, 3, 5}), text_cotangent = normal({2, 3, 5});
  std::vector<at::Tensor> leaves = projections->parameters();
  leaves.push_back(image);
  leaves.push_back(text);
  expect_gradients(
      [&] {
        return (projections->patches(image) * image_cotangent).sum() +
               (projections->text_tokens(text) * text_cotangent).sum();
      },
      leaves);
}

TEST(TokenProjections, AreInFloat32FromFewerBits) {
  auto projections = small_projections();
  projections->to(torch::kBFloat16);
  const auto patches = projections->patches(normal({1, 3, kImageSize}).to(torch::kBFloat16));
  EXPECT_EQ(patches.scalar_type(), torch::kFloat);
  EXPECT_TRUE(torch::allclose(patches.norm(2, {2}, false), torch::ones({1, 2}), 1e-5, 1e-5));
}

}  // namespace
}  // namespace tessera::fusion
