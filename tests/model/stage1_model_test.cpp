#include "model/stage1_model.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "config/config.h"
#include "core/error.h"
#include "language/decode_step.h"
#include "model/build.h"
#include "model/parameter_table.h"
#include "model/stage1_parts.h"
#include "tests/model/small_config.h"

namespace tessera::model {
namespace {

Config config_with_registers() {
  Config config = small_config();
  config.vision.architecture.num_register_tokens = 2;
  return config;
}

at::Tensor pixels() {
  return torch::arange(2 * 3 * 28 * 28).remainder(251).to(torch::kByte).view({2, 3, 28, 28});
}

TEST(Stage1Model, LeavesRegistersOutOfTheCompressedTokens) {
  const auto model = build_model(config_with_registers(), std::nullopt).model;
  const ImageFeatures features = model->encode_image(pixels());
  EXPECT_EQ(features.tokens.sizes(), (std::vector<std::int64_t>{2, 1 + 4, 12}));
  EXPECT_EQ(features.embedding.sizes(), (std::vector<std::int64_t>{2, 8}));
}

TEST(Stage1Model, FrozenLoraKeepsNoGraphOfTheEncoder) {
  const auto model = build_model(config_with_registers(), std::nullopt).model;
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
  const auto model = build_model(config_with_registers(), std::nullopt).model;
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
  const auto model = build_model(config_with_registers(), std::nullopt).model;
  const auto again = build_model(config_with_registers(), std::nullopt).model;
  Config other_config = config_with_registers();
  other_config.run.seed = 1;
  const auto other = build_model(other_config, std::nullopt).model;
  std::int64_t count = 0;
  bool differs = false;
  const auto same = again->module().named_parameters();
  const auto different = other->module().named_parameters();
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

/// With every gate at `value`.
std::shared_ptr<Stage1Model> gated_model(double value) {
  auto model = build_model(config_with_registers(), std::nullopt).model;
  const torch::NoGradGuard no_grad;
  model->set_training(false);
  // The initialiser's 0.02 would leave every text alike.
  torch::manual_seed(5);
  for (const NamedParameter& parameter : model->named_parts()) {
    if (parameter.part == Part::kGates) parameter.tensor.fill_(value);
    if (parameter.part == Part::kLanguage && parameter.tensor.dim() == 2) parameter.tensor.normal_(0, 0.3);
  }
  return model;
}

/// Two texts of 5 and 3 tokens.
language::TokenBatch tokens() {
  return {torch::tensor({2, 7, 8, 9, 3, 2, 11, 3, 0, 0}).view({2, 5}),
          torch::tensor({1, 1, 1, 1, 1, 1, 1, 1, 0, 0}).view({2, 5}).to(torch::kBool)};
}

/// Matching logits of every image with every text, [2, 2, 2].
at::Tensor all_matches(Stage1Model& model) {
  const torch::NoGradGuard no_grad;
  const at::Tensor image = model.compress_image(pixels()), lower = model.lower_text(tokens());
  const auto images = torch::tensor({0, 0, 1, 1}), texts = torch::tensor({0, 1, 0, 1});
  return model
      .match_logits(image.index_select(0, images), lower.index_select(0, texts),
                    tokens().attention_mask.index_select(0, texts))
      .view({2, 2, 2});
}

TEST(Stage1Model, MatchingJudgesPairsOnlyThroughOpenGates) {
  // Without fusion the logits are a sum of a part of the image and a part of the text.
  const auto interaction = [](const at::Tensor& logits) {
    return (logits[0][0] - logits[0][1] - logits[1][0] + logits[1][1]).abs().max().item<double>();
  };
  const at::Tensor closed = all_matches(*gated_model(0.0)), open = all_matches(*gated_model(0.8));
  EXPECT_GT((closed[0] - closed[1]).abs().max().item<double>(), 1e-3);
  EXPECT_LT(interaction(closed), 1e-6);
  EXPECT_GT(interaction(open), 1e-5);
}

TEST(Stage1Model, ClosedGatesLeaveTheUnfusedPasses) {
  const auto model = gated_model(0.0);
  const torch::NoGradGuard no_grad;
  const at::Tensor logits = model->caption_logits(tokens(), {model->encode_image(pixels()).states, {}, {}});
  language::LanguageModel language = model->language();
  const at::Tensor plain =
      language->logits(language->hidden_states(tokens().input_ids, {}, language::AttentionMode::kCausal));
  EXPECT_TRUE(torch::equal(logits, plain));
  const TextFeatures text = model->encode_text(tokens());
  EXPECT_TRUE(
      torch::equal(text.hidden_states, language->hidden_states(tokens().input_ids, tokens().attention_mask,
                                                               language::AttentionMode::kBidirectional)));
}

TEST(Stage1Model, CaptionLogitsReadImageMemoryAndEarlierTokensAlone) {
  const auto model = gated_model(0.8);
  const torch::NoGradGuard no_grad;
  const ImageFeatures image = model->encode_image(pixels());
  torch::manual_seed(2);
  const at::Tensor memory = torch::randn({2, 16});
  const fusion::CaptionCondition condition{image.states, memory, {}};
  const at::Tensor before = model->caption_logits(tokens(), condition);
  for (std::int64_t changed = 1; changed < 5; ++changed) {
    language::TokenBatch other = tokens();
    other.input_ids.select(1, changed).fill_(20);
    const at::Tensor after = model->caption_logits(other, condition);
    EXPECT_TRUE(torch::equal(before.slice(1, 0, changed), after.slice(1, 0, changed))) << changed;
    EXPECT_FALSE(torch::allclose(before.slice(1, changed), after.slice(1, changed))) << changed;
  }
  EXPECT_FALSE(torch::allclose(before, model->caption_logits(tokens(), {image.states, {}, {}})));
  EXPECT_FALSE(torch::allclose(before, model->caption_logits(tokens(), {{}, memory, {}})));
  EXPECT_THROW(model->caption_logits(tokens(), {{}, memory.slice(0, 0, 1), {}}), c10::Error);
}

TEST(Stage1Model, TheDecoderContinuesWhatTheCaptionPassBegins) {
  const auto model = gated_model(0.8);
  const torch::NoGradGuard no_grad;
  const fusion::CaptionCondition condition{model->encode_image(pixels()).states, {}, {}};
  const at::Tensor ids = torch::tensor({2, 7, 8, 9, 2, 11, 12, 13}).view({2, 4});
  const at::Tensor expected = model->caption_logits({ids, torch::ones_like(ids).to(torch::kBool)}, condition);
  const auto step = model->decoder(condition);
  for (std::int64_t t = 0; t < 4; ++t) {
    EXPECT_TRUE(torch::allclose(step->next_logits(ids.slice(1, t, t + 1)), expected.select(1, t), 1e-5, 1e-6))
        << t;
  }
}

TEST(Stage1Model, AHeadOfItsOwnTrainsOnlyWhereTokensArePredicted) {
  for (const bool decodes : {false, true}) {
    Config config = config_with_registers();
    config.losses.caption.weight = decodes ? 1 : 0;
    config.losses.memory.weight = 0;
    auto built = build_model(config, std::nullopt);
    language::LanguageModelConfig untied = built.model->language()->config();
    untied.tie_word_embeddings = false;
    const auto vision =
        std::dynamic_pointer_cast<vision::VisionEncoder>(built.model->vision().shared_from_this());
    const auto model =
        assemble_model(config, vision, built.model->lora(), language::LanguageModel(untied, 1));
    model->freeze_unused(config.losses);
    EXPECT_EQ(model->module().named_parameters()["language.lm_head.weight"].requires_grad(), decodes);
    EXPECT_TRUE(model->module().named_parameters()["language.model.embed_tokens.weight"].requires_grad());
  }
}

TEST(Stage1Model, GatesAreThoseOfTheTower) {
  const auto model = gated_model(0.25);
  model->fusion()->text_cross_attention(0).gate.detach().fill_(-0.5);
  EXPECT_EQ(model->gates().text_reads_image.item<double>(), -0.5);
  EXPECT_EQ(model->gates().image_reads_text.item<double>(), 0.25);
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
  EXPECT_NE(message_of(config_with_registers(), 49).find("language.vocab_size"), std::string::npos);
  Config config = config_with_registers();
  config.vision.weights = "";
  EXPECT_NE(message_of(config, std::nullopt).find("vision.weights"), std::string::npos);
  config = config_with_registers();
  config.data.image_size = 30;
  EXPECT_NE(message_of(config, std::nullopt).find("data.image_size"), std::string::npos);
}

TEST(ParameterTable, CountsByPartAndEndsWithPeftsLine) {
  const auto model = build_model(config_with_registers(), std::nullopt).model;
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
