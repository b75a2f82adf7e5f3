#include "fusion/itc_poolers.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace tessera::fusion {
namespace {

ItcPoolers small_poolers() {
  torch::manual_seed(3);
  return ItcPoolers(ItcPoolersOptions{.image_size = 6, .text_size = 8, .embedding_size = 5});
}

TEST(ItcPoolers, EmbeddingsHaveLengthOne) {
  auto poolers = small_poolers();
  const auto image = poolers->image(torch::randn({4, 7, 6}));
  const auto text = poolers->text(torch::randn({4, 3, 8}), torch::ones({4, 3}, torch::kBool));
  EXPECT_TRUE(torch::allclose(image.norm(2, {1}, false), torch::ones({4}), 1e-5, 1e-5));
  EXPECT_TRUE(torch::allclose(text.norm(2, {1}, false), torch::ones({4}), 1e-5, 1e-5));
}

TEST(ItcPoolers, PatchOrderDoesNotMatterButClsDoes) {
  auto poolers = small_poolers();
  const auto tokens = torch::randn({2, 5, 6});
  const auto patches_turned = tokens.index_select(1, torch::tensor({0, 4, 3, 2, 1}));
  const auto cls_swapped = tokens.index_select(1, torch::tensor({1, 0, 2, 3, 4}));
  EXPECT_TRUE(torch::allclose(poolers->image(tokens), poolers->image(patches_turned), 1e-5, 1e-6));
  EXPECT_FALSE(torch::allclose(poolers->image(tokens), poolers->image(cls_swapped), 1e-3, 1e-3));
}

TEST(ItcPoolers, PaddingContentChangesNothing) {
  auto poolers = small_poolers();
  auto hidden = torch::randn({2, 4, 8});
  const auto mask = torch::tensor({1, 1, 0, 0, 1, 1, 1, 0}).view({2, 4}).to(torch::kBool);
  const auto before = poolers->text(hidden, mask);
  hidden.masked_fill_(mask.logical_not().unsqueeze(-1), 1e3);
  EXPECT_TRUE(torch::equal(before, poolers->text(hidden, mask)));
}

TEST(ItcPoolers, RowWithoutTokensStaysFinite) {
  auto poolers = small_poolers();
  const auto mask = torch::zeros({1, 4}, torch::kBool);
  EXPECT_TRUE(poolers->text(torch::randn({1, 4, 8}), mask).isfinite().all().item<bool>());
}

}  // namespace
}  // namespace tessera::fusion
