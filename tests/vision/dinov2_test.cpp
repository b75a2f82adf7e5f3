#include "vision/dinov2.h"

#include <nlohmann/json.hpp>

#include "core/autocast.h"
#include "core/device.h"
#include "lora/lora.h"
#include "tests/vision/vision_test_support.h"

namespace tessera::vision {
namespace {

using nlohmann::json;
using testing::HasSubstr;

std::int64_t count_parameters(const torch::nn::Module& module) {
  std::int64_t count = 0;
  for (const at::Tensor& parameter : module.parameters()) {
    count += parameter.numel();
  }
  return count;
}

TEST(Dinov2, HasThePublishedNumberOfParameters) {
  Dinov2Config config = Dinov2Config::from_architecture({});
  EXPECT_EQ(count_parameters(Dinov2Model(config)), 86'580'480);
  config.hidden_size = 384;
  config.num_attention_heads = 6;
  EXPECT_EQ(count_parameters(Dinov2Model(config)), 22'056'576);
}

TEST(Dinov2, GiantHasThePublishedWidth) {
  Dinov2Config config = Dinov2Config::from_architecture({});
  config.hidden_size = 1536;
  config.num_attention_heads = 24;
  config.use_swiglu_ffn = true;
  EXPECT_EQ(config.intermediate_size(), 4096);
}

TEST(Dinov2, ParametersAreNamedByTheKeysOfTheFiles) {
  const auto parameters = random_model()->named_parameters();
  for (const char* key :
       {"embeddings.cls_token", "embeddings.mask_token", "embeddings.position_embeddings",
        "embeddings.patch_embeddings.projection.weight", "encoder.layer.0.norm1.bias",
        "encoder.layer.2.attention.attention.query.weight", "encoder.layer.2.attention.attention.key.bias",
        "encoder.layer.1.attention.attention.value.weight", "encoder.layer.1.attention.output.dense.bias",
        "encoder.layer.1.layer_scale1.lambda1", "encoder.layer.1.mlp.fc2.weight", "layernorm.weight"}) {
    EXPECT_TRUE(parameters.contains(key)) << key;
  }
  EXPECT_EQ(parameters.size(), 5 + 3 * 18 + 2);
}

TEST(Dinov2, EveryUsedParameterGetsAGradient) {
  Dinov2Config config = small_config();
  config.with_registers = true;
  config.num_register_tokens = 2;
  const auto model = random_model(config);
  at::manual_seed(1);
  const at::Tensor output = model->forward(random_pixels(12, 20));
  ASSERT_EQ(output.sizes(), (std::vector<std::int64_t>{2, 1 + 2 + 3 * 5, 16}));
  (output * at::randn_like(output)).sum().backward();
  for (const auto& item : model->named_parameters()) {
    if (item.key() == "embeddings.mask_token") {
      EXPECT_FALSE(item.value().requires_grad());
    } else if (!item.key().ends_with("key.bias")) {  // softmax takes no notice of it
      ASSERT_TRUE(item.value().grad().defined()) << item.key();
      EXPECT_GT(item.value().grad().norm().item<double>(), 0) << item.key();
    }
  }
}

TEST(Dinov2, FreezingSparesAdaptersAndTheMaskTokenNeverTrains) {
  const auto model = random_model();
  lora::inject_lora(*model, {.r = 2, .target_modules = {"query"}}, 0);
  model->set_backbone_trainable(true);
  EXPECT_TRUE(model->named_parameters()["layernorm.weight"].requires_grad());
  EXPECT_FALSE(model->named_parameters()["embeddings.mask_token"].requires_grad());
  model->set_backbone_trainable(false);
  for (const auto& item : model->named_parameters()) {
    EXPECT_EQ(item.value().requires_grad(), lora::is_lora_parameter(item.key())) << item.key();
  }
}

TEST(Dinov2, NothingBelowTheFirstAdaptedBlockIsKeptForTheBackwardPass) {
  const auto model = random_model();
  lora::inject_lora(*model, {.r = 2, .target_modules = {"layer.2.attention.attention.query"}}, 0);
  EXPECT_FALSE(model->embed(random_pixels()).requires_grad());
  // What autograd reaches from the output: the adapter, but no product of the blocks below.
  const at::Tensor output = model->forward(random_pixels());
  ASSERT_TRUE(output.requires_grad());
  int layer_norms = 0;
  std::vector<torch::autograd::Node*> open = {output.grad_fn().get()};
  std::set<torch::autograd::Node*> seen;
  while (!open.empty()) {
    torch::autograd::Node* node = open.back();
    open.pop_back();
    if (node == nullptr || !seen.insert(node).second) {
      continue;
    }
    layer_norms += node->name().find("LayerNorm") != std::string::npos ? 1 : 0;
    for (const auto& edge : node->next_edges()) {
      open.push_back(edge.function.get());
    }
  }
  // The last norm, and norm2 of the last block; norm1 of the last block comes before the adapter.
  EXPECT_EQ(layer_norms, 2);
}

TEST(Dinov2, ImagesOfABatchDoNotMix) {
  const auto model = random_model();
  at::manual_seed(2);
  const at::Tensor pixels = random_pixels();
  const at::NoGradGuard no_grad;
  const at::Tensor both = model->forward(pixels);
  EXPECT_TRUE(at::allclose(both.slice(0, 1), model->forward(pixels.slice(0, 1)), 1e-4, 1e-5));
}

TEST(Dinov2, PatchProjectionIsTheConvolution) {
  at::manual_seed(3);
  const Dinov2Config config = small_config();
  PatchProjection projection(config);
  const at::NoGradGuard no_grad;
  projection->weight.normal_();
  projection->bias.normal_();
  const at::Tensor pixels = at::randn({2, 3, 14, 21});  // beyond the last whole patch: two rows, one column
  const at::Tensor expected =
      at::conv2d(pixels, projection->weight, projection->bias, /*stride=*/4).flatten(2).transpose(1, 2);
  EXPECT_TRUE(at::allclose(projection->forward(pixels), expected, 1e-4, 1e-4));
  EXPECT_THROW(projection->forward(at::zeros({2, 3, 3, 8})), c10::Error);
  EXPECT_THROW(projection->forward(at::zeros({2, 1, 8, 8})), c10::Error);
}

TEST(Dinov2, RunsUnderAutocast) {
  const auto model = random_model();
  lora::inject_lora(*model, {.r = 2, .target_modules = {"all-linear"}}, 0);
  at::manual_seed(4);
  const at::Tensor pixels = random_pixels();
  const at::Tensor expected = model->forward(pixels).detach();
  at::Tensor output;
  {
    const AutocastScope autocast(Compute{c10::kCPU, c10::kBFloat16});
    output = model->forward(pixels);
  }
  EXPECT_LT((output.to(at::kFloat) - expected).norm().item<double>(), 0.05 * expected.norm().item<double>());
  output.to(at::kFloat).square().sum().backward();
  for (const auto& [name, parameter] : lora::lora_parameters(*model)) {
    EXPECT_TRUE(parameter.grad().defined() && parameter.grad().isfinite().all().item<bool>()) << name;
  }
}

class PositionSizes
    : public testing::TestWithParam<std::tuple<PositionInterpolation, std::int64_t, std::int64_t>> {};

TEST_P(PositionSizes, GiveOnePositionAPatch) {
  const auto [variant, height, width] = GetParam();
  at::manual_seed(5);
  const at::Tensor positions = at::randn({1, 1 + 37 * 37, 4});
  const at::Tensor resized = interpolate_positions(positions, height, width, 14, variant);
  ASSERT_EQ(resized.size(1), 1 + (height / 14) * (width / 14));
  EXPECT_TRUE(at::equal(resized.select(1, 0), positions.select(1, 0)));
  EXPECT_TRUE(resized.isfinite().all().item<bool>());
}

INSTANTIATE_TEST_SUITE_P(All, PositionSizes,
                         testing::Combine(testing::Values(PositionInterpolation::kScaleFactor,
                                                          PositionInterpolation::kSize,
                                                          PositionInterpolation::kSizeAntialias),
                                          testing::Values(14, 224, 518, 602, 1204, 1722),
                                          testing::Values(224, 336, 1722)));

TEST(Positions, TheVariantsDiffer) {
  at::manual_seed(6);
  const at::Tensor positions = at::randn({1, 1 + 37 * 37, 4});
  const auto resized = [&](PositionInterpolation variant) {
    return interpolate_positions(positions, 224, 224, 14, variant);
  };
  const at::Tensor size = resized(PositionInterpolation::kSize);
  const double norm = size.norm().item<double>();
  EXPECT_GT((size - resized(PositionInterpolation::kScaleFactor)).norm().item<double>(), 0.05 * norm);
  EXPECT_GT((size - resized(PositionInterpolation::kSizeAntialias)).norm().item<double>(), 0.05 * norm);
  EXPECT_THROW(resized(PositionInterpolation::kAuto), c10::Error);
}

TEST(Positions, AreUntouchedAtTheirOwnSize) {
  const at::Tensor positions = at::randn({1, 1 + 16, 4});
  EXPECT_TRUE(
      interpolate_positions(positions, 16, 16, 4, PositionInterpolation::kScaleFactor).is_same(positions));
  EXPECT_THROW(interpolate_positions(at::randn({1, 1 + 15, 4}), 16, 16, 4, PositionInterpolation::kSize),
               c10::Error);
}

TEST(Positions, AutoFollowsTheKindOfModel) {
  Dinov2Config config = small_config();
  EXPECT_EQ(Dinov2Model(config).interpolation(), PositionInterpolation::kSize);
  config.with_registers = true;
  config.num_register_tokens = 4;
  const Dinov2Model model(config);
  EXPECT_EQ(model.interpolation(), PositionInterpolation::kSizeAntialias);
  EXPECT_EQ(model.first_patch(), 5);
  EXPECT_EQ(Dinov2Model(config, PositionInterpolation::kScaleFactor).interpolation(),
            PositionInterpolation::kScaleFactor);
}

TEST(InitialiseRandom, DependsOnTheSeedAlone) {
  const auto first = random_model(small_config(), 7)->named_parameters();
  at::manual_seed(99);
  const auto same = random_model(small_config(), 7)->named_parameters();
  const auto other = random_model(small_config(), 8)->named_parameters();
  for (const auto& item : first) {
    EXPECT_TRUE(at::equal(item.value(), same[item.key()])) << item.key();
  }
  EXPECT_FALSE(at::equal(first["embeddings.position_embeddings"], other["embeddings.position_embeddings"]));
}

TEST(InitialiseRandom, HasTheScalesAtWhichPositionsSurvive) {
  Dinov2Config config = small_config();
  config.hidden_size = 64;
  config.layerscale_value = 0.25;
  const auto parameters = random_model(config)->named_parameters();
  const auto deviation = [&](const char* name) { return parameters[name].std().item<double>(); };
  EXPECT_NEAR(deviation("embeddings.position_embeddings"), 0.5, 0.05);
  EXPECT_NEAR(deviation("embeddings.patch_embeddings.projection.weight"), 1 / std::sqrt(48.0), 0.01);
  EXPECT_NEAR(deviation("encoder.layer.1.mlp.fc2.weight"), 1 / std::sqrt(256.0), 0.005);
  EXPECT_TRUE(at::all(parameters["encoder.layer.1.layer_scale2.lambda1"] == 0.25).item<bool>());
  EXPECT_TRUE(at::all(parameters["encoder.layer.1.norm2.weight"] == 1).item<bool>());
  EXPECT_TRUE(at::all(parameters["encoder.layer.1.mlp.fc1.bias"] == 0).item<bool>());
}

TEST(Dinov2Config, ReadsBackWhatItWrites) {
  Dinov2Config config = small_config();
  config.layerscale_value = 0.1;
  config.use_swiglu_ffn = true;
  config.with_registers = true;
  config.num_register_tokens = 3;
  EXPECT_EQ(Dinov2Config::from_json(config.to_json(), "x").to_json(), config.to_json());
  EXPECT_EQ(Dinov2Config::from_json(small_config().to_json(), "x").to_json(), small_config().to_json());
}

TEST(Dinov2Config, HasTheDefaultsOfItsClass) {
  const Dinov2Config plain = Dinov2Config::from_json(json{{"model_type", "dinov2"}}, "x");
  EXPECT_EQ(plain.image_size, 224);
  EXPECT_EQ(plain.patch_size, 14);
  EXPECT_FALSE(plain.with_registers);
  const Dinov2Config registers = Dinov2Config::from_json(json{{"model_type", "dinov2_with_registers"}}, "x");
  EXPECT_EQ(registers.patch_size, 16);
  EXPECT_EQ(registers.num_register_tokens, 4);
  EXPECT_EQ(Dinov2Config::from_json(json{{"image_size", {518, 518}}}, "x").image_size, 518);
}

struct BadConfig {
  const char* field;
  json value;
};

class BadConfigs : public testing::TestWithParam<BadConfig> {};

TEST_P(BadConfigs, AreErrorsThatNameFileAndField) {
  json object = small_config().to_json();
  object[GetParam().field] = GetParam().value;
  const std::string message = error_of([&] { Dinov2Config::from_json(object, "folder/config.json"); });
  EXPECT_THAT(message, HasSubstr("folder/config.json"));
  EXPECT_THAT(message, HasSubstr(GetParam().field));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadConfigs,
    testing::Values(BadConfig{"hidden_size", "wide"}, BadConfig{"hidden_size", 17},
                    BadConfig{"hidden_size", -16}, BadConfig{"hidden_size", 16.5},
                    BadConfig{"num_attention_heads", 0}, BadConfig{"num_hidden_layers", 1000000000},
                    BadConfig{"mlp_ratio", 0}, BadConfig{"mlp_ratio", "4"},
                    BadConfig{"image_size", json::array({16, 20})}, BadConfig{"image_size", json::array()},
                    BadConfig{"patch_size", 0}, BadConfig{"patch_size", 17}, BadConfig{"num_channels", 4},
                    BadConfig{"hidden_act", "relu"}, BadConfig{"drop_path_rate", 0.1},
                    BadConfig{"hidden_dropout_prob", 0.1}, BadConfig{"attention_probs_dropout_prob", 0.1},
                    BadConfig{"qkv_bias", 1}, BadConfig{"use_swiglu_ffn", "no"},
                    BadConfig{"layer_norm_eps", 0.0}, BadConfig{"model_type", "vit"}));

TEST(Dinov2Config, MustBeAnObject) {
  EXPECT_THAT(error_of([] { Dinov2Config::from_json(json::array(), "config.json"); }),
              HasSubstr("config.json"));
}

}  // namespace
}  // namespace tessera::vision
