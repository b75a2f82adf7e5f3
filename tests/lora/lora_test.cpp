#include "lora/lora.h"

#include "lora/module_names.h"
#include "tests/vision/vision_test_support.h"

namespace tessera::lora {
namespace {

using vision::Dinov2Config;
using vision::Dinov2Model;
using vision::error_of;
using vision::random_model;
using vision::random_pixels;

using testing::HasSubstr;

std::int64_t trainable_parameters(torch::nn::Module& module) {
  std::int64_t count = 0;
  for (const at::Tensor& parameter : module.parameters()) {
    count += parameter.requires_grad() ? parameter.numel() : 0;
  }
  return count;
}

std::int64_t trainable_in_base(const std::vector<std::string>& targets) {
  Dinov2Config config = Dinov2Config::from_architecture({});
  config.image_size = 28;  // positions don't matter here
  Dinov2Model model(config);
  inject_lora(model, {.r = 16, .lora_alpha = 32, .target_modules = targets}, 0);
  return trainable_parameters(model);
}

TEST(Lora, AddsTheKnownNumberOfParametersToBase) {
  EXPECT_EQ(trainable_in_base({"query", "value"}), 589'824);
  EXPECT_EQ(trainable_in_base({"all-linear"}), 2'654'208);
}

TEST(Lora, TargetsMatchWholeSegmentsInBothNamings) {
  const auto matched = [](const std::vector<std::string>& targets) {
    std::vector<std::string> names;
    const auto model = random_model();
    for (const NamedLinear& module : match_targets(*model, {.target_modules = targets})) {
      names.push_back(module.name);
    }
    return names;
  };
  EXPECT_EQ(matched({"query", "value"}).size(), 6);
  EXPECT_EQ(matched({"q_proj", "v_proj"}), matched({"query", "value"}));
  EXPECT_EQ(matched({"attention.o_proj"}), matched({"output.dense"}));
  EXPECT_THAT(matched({"encoder.layer.1.attention.k_proj"}),
              testing::ElementsAre("encoder.layer.1.attention.attention.key"));
  EXPECT_THAT(matched({"1.mlp.fc1"}), testing::ElementsAre("encoder.layer.1.mlp.fc1"));
  EXPECT_EQ(matched({"all-linear"}).size(), 18);
}

TEST(Lora, ATargetThatMatchesNothingListsTheCandidates) {
  const auto model = random_model();
  // "uery" ends the name, but is no segment; the convolution is no linear module.
  for (const char* target : {"uery", "c_attn", "projection", "all-linear-x", ""}) {
    const std::string message = error_of([&] {
      inject_lora(*model, {.target_modules = {"query", target}}, 0);
    });
    EXPECT_THAT(message, HasSubstr(fmt::format("\"{}\"", target)));
    EXPECT_THAT(message, HasSubstr("dense, fc1, fc2, k_proj, key, o_proj, q_proj, query, v_proj, value"));
  }
  EXPECT_TRUE(adapted_linears(*model).empty()) << "a refused injection must leave the model as it was";
  AdaptableModule empty;
  EXPECT_THAT(error_of([&] { inject_lora(empty, {.target_modules = {"all-linear"}}, 0); }),
              HasSubstr("all-linear"));
}

TEST(Lora, BadOptionsAreErrorsThatNameThem) {
  const auto model = random_model();
  const auto message = [&](const LoraOptions& options) {
    return error_of([&] { inject_lora(*model, options, 0); });
  };
  EXPECT_THAT(message({.r = 0, .target_modules = {"query"}}), HasSubstr("r:"));
  EXPECT_THAT(message({.lora_alpha = NAN, .target_modules = {"query"}}), HasSubstr("lora_alpha"));
  EXPECT_THAT(message({.lora_dropout = 1.0, .target_modules = {"query"}}), HasSubstr("lora_dropout"));
  EXPECT_THAT(message({}), HasSubstr("target_modules"));
}

TEST(Lora, NamesThatMeanNothingAreRefusedWhereAPersonWroteThem) {
  const auto model = random_model();
  const auto message = [&](const LoraOptions& options) {
    return error_of([&] { refuse_unused_names(*model, options); });
  };
  EXPECT_NO_THROW(refuse_unused_names(*model, {.target_modules = {"query"},
                                               .exclude_modules = {"0.attention.q_proj"},
                                               .rank_pattern = {{"q_proj", 2}},
                                               .alpha_pattern = {{"layer\\.1\\..*", 3}}}));
  EXPECT_THAT(message({.target_modules = {"query"}, .exclude_modules = {"nosuch"}}),
              AllOf(HasSubstr("exclude_modules"), HasSubstr("nosuch"), HasSubstr("fc1")));
  EXPECT_THAT(message({.target_modules = {"query"}, .rank_pattern = {{"fc1", 2}}}),
              AllOf(HasSubstr("rank_pattern"), HasSubstr("fc1"), HasSubstr("query")));
  EXPECT_THAT(message({.target_modules = {"query"}, .alpha_pattern = {{"nosuch", 2}}}),
              HasSubstr("alpha_pattern"));
  EXPECT_THAT(message({.target_modules = ModuleSelection::from_text("query")}), HasSubstr("[query]"));
  EXPECT_THAT(message({.target_modules = {"query"}, .layers_to_transform = {7}}),
              AllOf(HasSubstr("layers_to_transform"), HasSubstr("0, 1, 2"), HasSubstr("7")));
}

TEST(Lora, FreshAdaptersChangeNothingAndOnlyTheyTrain) {
  const auto model = random_model();
  model->eval();
  at::manual_seed(1);
  const at::Tensor pixels = random_pixels();
  const at::Tensor before = model->forward(pixels).detach();
  const std::vector<std::string> names =
      inject_lora(*model, {.r = 4, .lora_alpha = 8, .target_modules = {"query", "value"}}, 5);
  EXPECT_EQ(names.size(), 6);
  EXPECT_TRUE(at::allclose(model->forward(pixels), before, 1e-6, 1e-6));
  EXPECT_EQ(trainable_parameters(*model), 6 * 4 * (16 + 16));
  set_lora_trainable(*model, {.r = 4, .lora_alpha = 8, .target_modules = {"query", "value"}}, false);
  EXPECT_EQ(trainable_parameters(*model), 0);
  EXPECT_FALSE(model->forward(pixels).requires_grad());
  set_lora_trainable(*model, {.r = 4, .lora_alpha = 8, .target_modules = {"query", "value"}}, true);
  EXPECT_EQ(trainable_parameters(*model), 6 * 4 * (16 + 16));
  EXPECT_THROW(inject_lora(*model, {.target_modules = {"query"}}, 0), c10::Error);
}

TEST(Lora, StartsAsPeftDoes) {
  const auto adapters = [](std::uint64_t seed) {
    const auto model = random_model();
    inject_lora(*model, {.r = 8, .target_modules = {"fc2"}}, seed);
    return lora_parameters(*model);
  };
  const TensorMap first = adapters(3);
  ASSERT_EQ(first.size(), 6);
  const at::Tensor a = first.at("encoder.layer.0.mlp.fc2.lora_A.weight");
  EXPECT_EQ(a.sizes(), (std::vector<std::int64_t>{8, 64}));
  const double bound = 1 / std::sqrt(64.0);
  EXPECT_LE(a.abs().max().item<double>(), bound);
  EXPECT_NEAR(a.std().item<double>(), bound / std::sqrt(3.0), 0.1 * bound);
  EXPECT_EQ(first.at("encoder.layer.0.mlp.fc2.lora_B.weight").abs().max().item<double>(), 0);
  EXPECT_TRUE(at::equal(adapters(3).at("encoder.layer.2.mlp.fc2.lora_A.weight"),
                        first.at("encoder.layer.2.mlp.fc2.lora_A.weight")));
  EXPECT_FALSE(at::equal(adapters(4).at("encoder.layer.2.mlp.fc2.lora_A.weight"),
                         first.at("encoder.layer.2.mlp.fc2.lora_A.weight")));
}

TEST(Lora, MergedWeightsGiveTheSameFeatures) {
  const auto model = random_model();
  inject_lora(*model, {.r = 4, .lora_alpha = 4, .target_modules = {"all-linear"}, .use_rslora = true}, 1);
  model->eval();
  at::manual_seed(2);
  const at::NoGradGuard no_grad;
  for (auto& [name, parameter] : lora_parameters(*model)) {
    parameter.normal_(0, 0.2);
  }
  const at::Tensor pixels = random_pixels();
  const at::Tensor adapted = model->forward(pixels);
  const auto plain = random_model();
  plain->eval();
  const at::Tensor without = plain->forward(pixels);
  merge_lora(*model);
  EXPECT_TRUE(adapted_linears(*model).empty());
  EXPECT_EQ(model->parameters().size(), plain->parameters().size());
  EXPECT_TRUE(at::allclose(adapted, model->forward(pixels), 1e-4, 1e-4));
  EXPECT_FALSE(at::allclose(adapted, without, 1e-1, 1e-1))
      << "the adapter must matter for this to prove anything";
}

TEST(Lora, ScalingIsPefts) {
  EXPECT_EQ((LoraOptions{.r = 16, .lora_alpha = 32}).scaling(), 2.0);
  EXPECT_EQ((LoraOptions{.r = 16, .lora_alpha = 16, .use_rslora = true}).scaling(), 4.0);
}

TEST(Lora, AdapterParametersAreTold) {
  EXPECT_TRUE(is_lora_parameter("encoder.layer.0.mlp.fc2.lora_A.weight"));
  EXPECT_TRUE(is_lora_parameter("lora_B.weight"));
  EXPECT_FALSE(is_lora_parameter("encoder.layer.0.mlp.fc2.weight"));
  EXPECT_FALSE(is_lora_parameter("colora_A.weight"));
}

}  // namespace
}  // namespace tessera::lora
