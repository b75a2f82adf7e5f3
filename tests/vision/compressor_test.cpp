#include "vision/compressor.h"

#include "tests/vision/vision_test_support.h"

namespace tessera::vision {
namespace {

TEST(FeatureCompressor, HasTheKnownParameters) {
  FeatureCompressor compressor(768, CompressorConfig{});
  std::int64_t count = 0;
  std::vector<std::string> names;
  for (const auto& item : compressor->named_parameters()) {
    names.push_back(item.key());
    count += item.value().numel();
  }
  EXPECT_EQ(count, 344'832);
  EXPECT_THAT(names, testing::ElementsAre("0.weight", "0.bias", "3.weight", "3.bias", "4.weight", "4.bias"));
}

TEST(FeatureCompressor, TreatsTokensApartAndNormalisesThem) {
  at::manual_seed(1);
  FeatureCompressor compressor(8, CompressorConfig{.hidden_size = 16, .output_size = 32});
  compressor->eval();
  const at::Tensor tokens = at::randn({2, 3, 8});
  const at::Tensor output = compressor->forward(tokens);
  ASSERT_EQ(output.sizes(), (std::vector<std::int64_t>{2, 3, 32}));
  EXPECT_TRUE(at::allclose(output.mean(-1), at::zeros({2, 3}), 0, 1e-5));
  EXPECT_TRUE(at::allclose(output.var(-1, /*unbiased=*/false), at::ones({2, 3}), 0, 1e-2));
  EXPECT_TRUE(at::allclose(compressor->forward(tokens.slice(1, 2)), output.slice(1, 2), 1e-5, 1e-5));
}

TEST(FeatureCompressor, DropsInTrainingOnly) {
  at::manual_seed(2);
  FeatureCompressor compressor(8, CompressorConfig{.hidden_size = 64, .output_size = 8, .dropout = 0.5});
  const at::Tensor tokens = at::randn({2, 3, 8});
  compressor->train();
  EXPECT_FALSE(at::equal(compressor->forward(tokens), compressor->forward(tokens)));
  compressor->eval();
  EXPECT_TRUE(at::equal(compressor->forward(tokens), compressor->forward(tokens)));
}

TEST(FeatureCompressor, RefusesAnotherWidth) {
  FeatureCompressor compressor(8, CompressorConfig{.hidden_size = 4, .output_size = 4});
  EXPECT_THROW(compressor->forward(at::zeros({2, 3, 9})), c10::Error);
  EXPECT_THROW(compressor->forward(at::zeros({3, 8})), c10::Error);
}

}  // namespace
}  // namespace tessera::vision
