#include "language/language_model.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "core/autocast.h"
#include "core/device.h"
#include "core/error.h"
#include "language/next_token_loss.h"
#include "tests/core/largest_difference.h"
#include "tests/language/fixtures.h"

namespace tessera::language {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// [B, T] true for the first lengths[b] tokens.
at::Tensor right_padded(const std::vector<std::int64_t>& lengths, std::int64_t tokens) {
  return at::arange(tokens).unsqueeze(0).lt(at::tensor(lengths, at::kLong).unsqueeze(1));
}

TEST(LanguageModel, DefaultHasTheParametersOfTheDesign) {
  LanguageModel model(LanguageModelConfig::from_config({}), 0);
  std::int64_t count = 0;
  for (const auto& parameter : model->parameters()) count += parameter.numel();
  EXPECT_EQ(count, 24'388'992);
  EXPECT_EQ(language_model_weights(model).count("lm_head.weight"), 0u);
}

TEST(LanguageModel, ParametersHaveHuggingFacesNames) {
  LanguageModelConfig config = small_config();
  config.num_hidden_layers = 1;
  config.tie_word_embeddings = false;
  std::vector<std::string> names;
  for (const auto& [name, weight] : language_model_weights(LanguageModel(config, 0))) names.push_back(name);
  const std::string layer = "model.layers.0.";
  EXPECT_THAT(names, ::testing::UnorderedElementsAre(
                         "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
                         layer + "input_layernorm.weight", layer + "post_attention_layernorm.weight",
                         layer + "self_attn.q_proj.weight", layer + "self_attn.k_proj.weight",
                         layer + "self_attn.v_proj.weight", layer + "self_attn.o_proj.weight",
                         layer + "mlp.gate_proj.weight", layer + "mlp.up_proj.weight",
                         layer + "mlp.down_proj.weight"));
}

TEST(LanguageModel, WeightsAreAFunctionOfTheSeed) {
  const TensorMap first = language_model_weights(LanguageModel(small_config(), 7));
  at::rand({3});  // the global generator moves on
  const TensorMap again = language_model_weights(LanguageModel(small_config(), 7));
  const TensorMap other = language_model_weights(LanguageModel(small_config(), 8));
  for (const auto& [name, weight] : first) {
    EXPECT_TRUE(at::equal(weight, again.at(name))) << name;
    if (weight.dim() == 2) {
      EXPECT_FALSE(at::equal(weight, other.at(name))) << name;
      EXPECT_NEAR(weight.std().item<double>(), small_config().initializer_range, 0.03) << name;
    }
  }
  EXPECT_EQ(first.at("model.embed_tokens.weight")[0].abs().max().item<double>(), 0.0);
}

TEST(LanguageModel, ALaterTokenChangesEarlierLogitsOnlyBidirectionally) {
  LanguageModel model(small_config(), 1);
  const at::Tensor ids = random_ids(2, 10, 2);
  at::Tensor changed = ids.clone();
  changed.select(1, 6).copy_((ids.select(1, 6) + 1 - 5).remainder(35) + 5);
  for (const bool with_mask : {false, true}) {
    const at::Tensor mask = with_mask ? at::ones({2, 10}, at::kBool) : at::Tensor();
    const auto logits = [&](const at::Tensor& input, AttentionMode mode) {
      return model->logits(model->hidden_states(input, mask, mode));
    };
    const at::Tensor before = logits(ids, AttentionMode::kCausal);
    const at::Tensor after = logits(changed, AttentionMode::kCausal);
    EXPECT_LE(largest_difference(before.slice(1, 0, 6), after.slice(1, 0, 6)), 1e-5);
    EXPECT_GT(largest_difference(before.slice(1, 6), after.slice(1, 6)), 1e-2);
    const at::Tensor seen_before = logits(ids, AttentionMode::kBidirectional);
    const at::Tensor seen_after = logits(changed, AttentionMode::kBidirectional);
    for (std::int64_t t = 0; t < 6; ++t) {
      EXPECT_GT(largest_difference(seen_before.select(1, t), seen_after.select(1, t)), 1e-3) << t;
    }
  }
}

class PaddingTest : public ::testing::TestWithParam<AttentionMode> {};

TEST_P(PaddingTest, ContentOfPaddingChangesNothing) {
  LanguageModel model(small_config(), 1);
  const at::Tensor mask = right_padded({4, 9, 1}, 9);
  const at::Tensor ids = random_ids(3, 9, 3);
  const at::Tensor other = at::where(mask, ids, random_ids(3, 9, 4));
  ASSERT_FALSE(at::equal(ids, other));
  const at::Tensor a = model->hidden_states(ids, mask, GetParam());
  const at::Tensor b = model->hidden_states(other, mask, GetParam());
  EXPECT_LE(largest_difference(a.index({mask}), b.index({mask})), 1e-5);
}

TEST_P(PaddingTest, APaddedSentenceIsReadAsWithoutItsPadding) {
  LanguageModel model(small_config(), 1);
  const std::vector<std::int64_t> lengths = {4, 9, 1};
  const at::Tensor ids = random_ids(3, 9, 3);
  const at::Tensor together = model->hidden_states(ids, right_padded(lengths, 9), GetParam());
  for (std::int64_t row = 0; row < 3; ++row) {
    const at::Tensor alone =
        model->hidden_states(ids.slice(0, row, row + 1).slice(1, 0, lengths[row]), {}, GetParam());
    EXPECT_LE(largest_difference(together[row].slice(0, 0, lengths[row]), alone[0]), 2e-5) << row;
  }
}

TEST_P(PaddingTest, RowsOfPaddingOnlyStayFiniteAlsoInTheGradients) {
  LanguageModel model(small_config(), 1);
  at::Tensor mask = right_padded({0, 9, 5}, 9);
  mask[2] = mask[2].flip(0);  // padded on the left
  const at::Tensor hidden = model->hidden_states(random_ids(3, 9, 3), mask, GetParam());
  EXPECT_TRUE(hidden.isfinite().all().item<bool>());
  hidden.square().sum().backward();
  for (const auto& parameter : model->named_parameters()) {
    EXPECT_TRUE(parameter.value().grad().isfinite().all().item<bool>()) << parameter.key();
  }
}

TEST_P(PaddingTest, SteppingThroughTheHalvesIsTheWholeCall) {
  LanguageModel model(small_config(), 1);
  const at::Tensor ids = random_ids(2, 7, 5);
  const at::Tensor mask = right_padded({7, 3}, 7);
  const DecoderContext context = model->context(mask, 7, GetParam());
  at::Tensor hidden = model->embed(ids);
  for (std::int64_t i = 0; i < model->num_layers(); ++i) {
    hidden = model->layer(i).attention_half(hidden, context);
    hidden = model->layer(i).feed_forward_half(hidden);
  }
  EXPECT_TRUE(at::equal(model->final_norm(hidden), model->hidden_states(ids, mask, GetParam())));
}

TEST_P(PaddingTest, AutocastToBfloat16StaysNear) {
  LanguageModel model(small_config(), 1);
  at::NoGradGuard no_grad;
  const at::Tensor ids = random_ids(3, 9, 3);
  const at::Tensor mask = right_padded({4, 9, 6}, 9);
  const at::Tensor exact = model->hidden_states(ids, mask, GetParam());
  at::Tensor rounded;
  {
    const AutocastScope autocast(Compute{at::kCPU, at::kBFloat16});
    rounded = model->hidden_states(ids, mask, GetParam());
  }
  const double difference =
      (exact - rounded.to(at::kFloat)).index({mask}).square().mean().sqrt().item<double>();
  EXPECT_GT(difference, 0.0);
  EXPECT_LT(difference, 0.1);
}

INSTANTIATE_TEST_SUITE_P(Modes, PaddingTest,
                         ::testing::Values(AttentionMode::kCausal, AttentionMode::kBidirectional));

TEST(LanguageModel, GroupedHeadsAreFullHeadsWithRepeatedWeights) {
  LanguageModelConfig grouped_config = small_config();
  grouped_config.num_key_value_heads = 2;
  LanguageModel grouped(grouped_config, 1);
  LanguageModel full(small_config(), 2);
  TensorMap weights = language_model_weights(grouped);
  for (auto& [name, weight] : weights) {
    if (name.find("k_proj") != std::string::npos || name.find("v_proj") != std::string::npos) {
      weight = weight.view({2, 8, 32}).repeat_interleave(2, 0).reshape({32, 32});
    }
  }
  load_language_model_weights(full, weights, "repeated");
  const at::Tensor ids = random_ids(2, 8, 6);
  EXPECT_LE(largest_difference(grouped->hidden_states(ids, {}, AttentionMode::kCausal),
                               full->hidden_states(ids, {}, AttentionMode::kCausal)),
            1e-5);
}

TEST(LanguageModel, EveryParameterGetsAGradient) {
  LanguageModelConfig config = small_config();
  config.tie_word_embeddings = false;
  LanguageModel model(config, 1);
  const at::Tensor ids = random_ids(2, 8, 7);
  const at::Tensor hidden = model->hidden_states(ids, {}, AttentionMode::kCausal);
  next_token_loss(model->logits(hidden), ids).value.backward();
  for (const auto& parameter : model->named_parameters()) {
    ASSERT_TRUE(parameter.value().grad().defined()) << parameter.key();
    EXPECT_GT(parameter.value().grad().abs().max().item<double>(), 0.0) << parameter.key();
  }
}

TEST(LanguageModel, RefusesInputsThatDontFit) {
  LanguageModel model(small_config(), 1);
  const auto run = [&](const at::Tensor& ids, const at::Tensor& mask) {
    return model->hidden_states(ids, mask, AttentionMode::kCausal);
  };
  EXPECT_THROW(run(random_ids(1, 33, 1), {}), c10::Error);                          // too long
  EXPECT_THROW(run(random_ids(1, 4, 1).to(at::kInt), {}), c10::Error);              // dtype of the ids
  EXPECT_THROW(run(random_ids(1, 4, 1), at::ones({1, 5}, at::kBool)), c10::Error);  // shape of the mask
  EXPECT_THROW(run(random_ids(1, 4, 1), at::ones({1, 4}, at::kLong)), c10::Error);  // dtype of the mask
}

TEST(LoadWeights, ListsEverythingThatIsWrongAndChangesNothing) {
  LanguageModel model(small_config(), 1);
  TensorMap weights = language_model_weights(LanguageModel(small_config(), 2));
  const at::Tensor before = language_model_weights(model).at("model.embed_tokens.weight").clone();
  weights.erase("model.norm.weight");
  weights["model.norm.bias"] = at::zeros({32});
  weights["model.layers.0.mlp.up_proj.weight"] = at::zeros({48, 31});
  weights["model.layers.1.mlp.up_proj.weight"] = at::zeros({48, 32}, at::kLong);
  const std::string message =
      error_of([&] { load_language_model_weights(model, weights, "some.safetensors"); });
  EXPECT_THAT(message,
              AllOf(HasSubstr("some.safetensors"), HasSubstr("missing: model.norm.weight"),
                    HasSubstr("unexpected: model.norm.bias"),
                    HasSubstr("model.layers.0.mlp.up_proj.weight (expected [48, 32], found [48, 31])"),
                    HasSubstr("model.layers.1.mlp.up_proj.weight (expected a float type")));
  EXPECT_TRUE(at::equal(before, language_model_weights(model).at("model.embed_tokens.weight")));
}

TEST(LoadWeights, ATiedModelTakesOnlyAnEqualHead) {
  LanguageModel model(small_config(), 1);
  TensorMap weights = language_model_weights(LanguageModel(small_config(), 2));
  weights["lm_head.weight"] = weights.at("model.embed_tokens.weight").clone();
  load_language_model_weights(model, weights, "tied");
  EXPECT_TRUE(
      at::equal(language_model_weights(model).at("model.embed_tokens.weight"), weights.at("lm_head.weight")));
  weights["lm_head.weight"][3][4] += 1;
  EXPECT_THAT(error_of([&] { load_language_model_weights(model, weights, "tied"); }),
              HasSubstr("lm_head.weight"));
}

}  // namespace
}  // namespace tessera::language
