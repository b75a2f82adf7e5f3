#include "model/stage1_model.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "core/error.h"
#include "model/build.h"
#include "model/parameter_table.h"

namespace tessera::model {
namespace {

Config small_config() {
  Config config;
  config.data.image_size = 28;
  config.vision.weights = "random";
  config.vision.architecture = {.hidden_size = 24,
                                .num_hidden_layers = 2,
                                .num_attention_heads = 2,
                                .mlp_ratio = 2,
                                .image_size = 28,
                                .patch_size = 14,
                                .num_register_tokens = 2};
  config.lora.r = 4;
  config.compressor = {.hidden_size = 20, .output_size = 12, .dropout = 0.5};
  config.language.vocab_size = 50;
  config.language.hidden_size = 16;
  config.language.num_hidden_layers = 1;
  config.language.num_attention_heads = 2;
  config.language.intermediate_size = 24;
  config.fusion = {.embedding_size = 8,
                   .token_size = 8,
                   .levels = 1,
                   .image_attention_heads = 2,
                   .image_mlp_ratio = 2,
                   .cross_attention_heads = 2};
  config.memory.slots = 12;
  config.memory.code_size = 16;
  return config;
}

at::Tensor pixels() {
  return torch::arange(2 * 3 * 28 * 28).remainder(251).to(torch::kByte).view({2, 3, 28, 28});
}

TEST(Stage1Model, LeavesRegistersOutOfTheCompressedTokens) {
  const auto model = build_model(small_config(), std::nullopt).model;
  const ImageFeatures features = model->encode_image(pixels());
  EXPECT_EQ(features.tokens.sizes(), (std::vector<std::int64_t>{2, 1 + 4, 12}));
  EXPECT_EQ(features.embedding.sizes(), (std::vector<std::int64_t>{2, 8}));
}

TEST(Stage1Model, FrozenLoraKeepsNoGraphOfTheEncoder) {
  const auto model = build_model(small_config(), std::nullopt).model;
  model->set_training(true);
  EXPECT_FALSE(model->vision().is_training());
  model->encode_image(pixels()).embedding.sum().backward();
  for (const NamedParameter& parameter : model->named_parts()) {
    if (parameter.part == Part::kBackbone || parameter.part == Part::kLora) {
      EXPECT_FALSE(parameter.tensor.requires_grad()) << parameter.name;
      EXPECT_FALSE(parameter.tensor.grad().defined()) << parameter.name;
    }
    if (parameter.part == Part::kCompressor) {
      EXPECT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
    }
  }
}

TEST(Stage1Model, UnfrozenLoraGetsGradientsAndTheBackboneNone) {
  const auto model = build_model(small_config(), std::nullopt).model;
  const at::Tensor before = model->encode_image(pixels()).embedding.detach();
  const std::int64_t frozen = model->trainable_parameters();
  model->set_lora_trainable(true);
  model->set_training(true);
  EXPECT_TRUE(model->vision().is_training());
  EXPECT_EQ(model->trainable_parameters() - frozen, 2 * 2 * 4 * (24 + 24));
  model->encode_image(pixels()).embedding.sum().backward();
  for (const NamedParameter& parameter : model->named_parts()) {
    if (parameter.part == Part::kLora) {
      EXPECT_TRUE(parameter.tensor.grad().defined()) << parameter.name;
    }
    if (parameter.part == Part::kBackbone) {
      EXPECT_FALSE(parameter.tensor.grad().defined()) << parameter.name;
    }
  }
  // B = 0: unfreezing itself changes nothing.
  model->set_training(false);
  const at::Tensor unfrozen = model->encode_image(pixels()).embedding;
  model->set_lora_trainable(false);
  EXPECT_TRUE(torch::equal(unfrozen, model->encode_image(pixels()).embedding));
  EXPECT_EQ(before.sizes(), unfrozen.sizes());
}

TEST(Stage1Model, EveryParameterHasAPartAndTheSeedDecidesItsValue) {
  const auto model = build_model(small_config(), std::nullopt).model;
  const auto again = build_model(small_config(), std::nullopt).model;
  Config other_config = small_config();
  other_config.run.seed = 1;
  const auto other = build_model(other_config, std::nullopt).model;
  std::int64_t count = 0;
  bool differs = false;
  const auto same = again->named_parameters();
  const auto different = other->named_parameters();
  for (const NamedParameter& parameter : model->named_parts()) {
    count += parameter.tensor.numel();
    EXPECT_TRUE(torch::equal(parameter.tensor, same[parameter.name])) << parameter.name;
    differs |= !torch::equal(parameter.tensor, different[parameter.name]);
  }
  std::int64_t all = 0;
  for (const at::Tensor& parameter : model->parameters()) all += parameter.numel();
  EXPECT_EQ(count, all);
  EXPECT_TRUE(differs);
}

TEST(BuildModel, NamesTheKeyThatDoesNotFit) {
  const auto message_of = [](const Config& config, std::optional<std::int64_t> vocabulary) -> std::string {
    try {
      build_model(config, vocabulary);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_NE(message_of(small_config(), 49).find("language.vocab_size"), std::string::npos);
  Config config = small_config();
  config.vision.weights = "";
  EXPECT_NE(message_of(config, std::nullopt).find("vision.weights"), std::string::npos);
  config = small_config();
  config.data.image_size = 30;
  EXPECT_NE(message_of(config, std::nullopt).find("data.image_size"), std::string::npos);
}

TEST(ParameterTable, CountsByPartAndEndsWithPeftsLine) {
  const auto model = build_model(small_config(), std::nullopt).model;
  const std::string table = parameter_table(*model);
  for (const char* part : {"backbone", "lora", "compressor", "language", "heads", "temperature"}) {
    EXPECT_NE(table.find(part), std::string::npos) << part;
  }
  EXPECT_NE(
      table.find("trainable params: " + with_thousands(model->trainable_parameters()) + " || all params: "),
      std::string::npos)
      << table;
}

TEST(WithThousands, SeparatesGroupsOfThree) {
  EXPECT_EQ(with_thousands(0), "0");
  EXPECT_EQ(with_thousands(999), "999");
  EXPECT_EQ(with_thousands(1000), "1,000");
  EXPECT_EQ(with_thousands(30123456), "30,123,456");
  EXPECT_EQ(with_thousands(-123456), "-123,456");
  EXPECT_EQ(with_thousands(-1234), "-1,234");
}

}  // namespace
}  // namespace tessera::model
