// The model and its files with an encoder that is no DINOv2: what they know of one is VisionEncoder alone.

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <array>

#include "model/build.h"
#include "model/weights.h"
#include "tests/core/temporary_folder.h"
#include "tests/model/small_config.h"
#include "tests/model/strip_model.h"

namespace tessera::model {
namespace {

at::Tensor two_pictures() {
  return torch::arange(2 * 3 * 28 * 28).remainder(251).to(torch::kByte).view({2, 3, 28, 28});
}

TEST(OtherEncoder, ThePatchesOfAGridThatIsNotSquareGoThroughTheModel) {
  for (const std::int64_t leading : {0, 1, 3}) {
    const auto model = strip_model(small_config(), {.leading_tokens = leading});
    model->set_training(false);
    const torch::NoGradGuard no_grad;
    const at::Tensor tokens = model->encoder_tokens(two_pictures());
    ASSERT_EQ(tokens.sizes(), (std::vector<std::int64_t>{2, 1 + 2 * 4, 8})) << leading;
    if (leading == 0) {
      EXPECT_TRUE(torch::equal(tokens.select(1, 0), tokens.slice(1, 1).mean(1)));
    } else {
      EXPECT_TRUE(torch::equal(tokens[0][0], tokens[1][0])) << "the same token before every image";
    }
    const ImageFeatures features = model->encode_image(two_pictures());
    EXPECT_EQ(features.tokens.sizes(), (std::vector<std::int64_t>{2, 9, 12}));
    EXPECT_EQ(model->patch_embeddings(features).sizes(), (std::vector<std::int64_t>{2, 8, 8}));
    EXPECT_FALSE(torch::allclose(features.embedding[0], features.embedding[1]));
  }
}

TEST(OtherEncoder, TrainsWithTheModelWhereTheWholeBackboneDoes) {
  Config config = small_config();
  config.vision.trainable = lora::TrainableChoice::kFull;
  const auto model = strip_model(config, {.leading_tokens = 2});
  model->set_training(true);
  model->encode_image(two_pictures()).embedding.sum().backward();
  EXPECT_TRUE(model->vision().named_parameters()["projection"].grad().defined());
}

TEST(OtherEncoder, ItsFolderIsWrittenAndReadBack) {
  const TemporaryFolder temporary;
  const auto model = strip_model(small_config(), {});
  save_backbone(temporary.path() / "backbone", model->vision(), small_config());
  const std::array families = {vision::strip_family()};
  const auto loaded =
      vision::load_encoder(temporary.path() / "backbone", vision::PositionInterpolation::kAuto, families);
  EXPECT_EQ(loaded->config_json(), model->vision().config_json());
  const torch::NoGradGuard no_grad;
  const at::Tensor pixels = two_pictures().to(torch::kFloat);
  EXPECT_TRUE(torch::equal(loaded->forward(pixels), model->vision().forward(pixels)));
}

}  // namespace
}  // namespace tessera::model
