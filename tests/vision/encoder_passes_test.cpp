// What the encoder's passes save: products, casts, and memory for the backward pass.

#include <ATen/Parallel.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/autocast.h"
#include "lora/lora.h"
#include "nn/frozen_cast.h"
#include "tests/core/peak_bytes.h"
#include "tests/nn/at_once.h"
#include "tests/vision/vision_test_support.h"

namespace tessera::vision {
namespace {

const lora::LoraOptions kAdapters{.r = 2, .lora_alpha = 4, .target_modules = {"query", "value", "fc2"}};

std::shared_ptr<Dinov2Model> adapted(const lora::LoraOptions& options = kAdapters,
                                     const Dinov2Config& config = small_config()) {
  auto model = random_model(config);
  for (at::Tensor& parameter : model->parameters()) {
    const at::NoGradGuard no_grad;
    if (parameter.dim() == 1) parameter.add_(at::randn_like(parameter), 0.1);  // biases that matter
  }
  lora::inject_lora(*model, options, 1);
  for (auto& [name, parameter] : lora::lora_parameters(*model)) {
    const at::NoGradGuard no_grad;
    parameter.normal_(0, 0.3);
  }
  return model;
}

/// Features, and the gradients of the adapters' parameters.
TensorMap computed(Dinov2Model& model, const at::Tensor& pixels) {
  at::manual_seed(7);
  const at::Tensor features = model.forward(pixels);
  TensorMap result = {{"features", features.detach()}};
  std::vector<at::Tensor> parameters;
  std::vector<std::string> names;
  for (const auto& [name, parameter] : lora::lora_parameters(model)) {
    names.push_back(name);
    parameters.push_back(parameter);
  }
  const auto gradients = torch::autograd::grad({features.square().mean()}, parameters);
  for (std::size_t i = 0; i < names.size(); ++i) result[names[i]] = gradients[i];
  return result;
}

std::vector<Dinov2AttentionImpl*> attentions(torch::nn::Module& model) {
  std::vector<Dinov2AttentionImpl*> found;
  for (const auto& module : model.modules()) {
    if (auto* attention = dynamic_cast<Dinov2AttentionImpl*>(module.get())) found.push_back(attention);
  }
  return found;
}

TEST(EncoderPasses, QueryKeyAndValueAreOneProductThatGivesWhatThreeGive) {
  at::manual_seed(1);
  const at::Tensor pixels = random_pixels();
  for (const lora::LoraOptions& options : {kAdapters, lora::LoraOptions{.r = 3, .target_modules = {"key"}},
                                           lora::LoraOptions{.r = 3, .target_modules = {"fc1"}}}) {
    const auto model = adapted(options);
    model->eval();
    for (Dinov2AttentionImpl* attention : attentions(*model)) EXPECT_TRUE(attention->is_one_product());
    const TensorMap together = computed(*model, pixels);
    // A weight elsewhere in memory: three products.
    for (const lora::NamedLinear& module : lora::match_targets(*model, {.target_modules = {"key"}}))
      module.linear->weight.set_data(module.linear->weight.detach().clone());
    for (Dinov2AttentionImpl* attention : attentions(*model)) EXPECT_FALSE(attention->is_one_product());
    const TensorMap apart = computed(*model, pixels);
    for (const auto& [name, tensor] : apart) {
      EXPECT_LE((together.at(name) - tensor).abs().max().item<double>(),
                1e-5 * tensor.abs().max().item<double>())
          << name;
    }
  }
}

TEST(EncoderPasses, CheckpointingKeepsGradientsBitForBitAlsoWithDropout) {
  at::manual_seed(2);
  const at::Tensor pixels = random_pixels();
  lora::LoraOptions options = kAdapters;
  options.lora_dropout = 0.3;
  const auto model = adapted(options);
  model->train();
  const TensorMap kept = computed(*model, pixels);
  model->set_gradient_checkpointing(true);
  const TensorMap again = computed(*model, pixels);
  for (const auto& [name, tensor] : kept) {
    EXPECT_TRUE(at::equal(again.at(name), tensor)) << name;
    EXPECT_GT(tensor.abs().max().item<double>(), 0) << name;
  }
}

TEST(EncoderPasses, CheckpointingAndWhatIsNotAdaptedTakeNoMemory) {
  Dinov2Config config = small_config();
  config.hidden_size = 32;
  config.num_hidden_layers = 6;
  config.image_size = 40;
  at::manual_seed(3);
  const at::Tensor pixels = random_pixels(40, 40);
  const auto left = [&](const lora::LoraOptions& options, bool checkpointing) {
    const auto model = adapted(options, config);
    model->set_gradient_checkpointing(checkpointing);
    model->forward(pixels);  // what is made once is there already
    return peak_and_left_bytes([&] { return model->forward(pixels); }).second;
  };
  const lora::LoraOptions all{.r = 2, .target_modules = {"query", "fc1"}};
  lora::LoraOptions last = all;
  last.layers_to_transform = {5};
  const double of_all = left(all, false), of_checkpoints = left(all, true), of_last = left(last, false);
  // A block keeps some twenty times its input.
  EXPECT_LT(of_checkpoints, 0.15 * of_all);
  EXPECT_LT(of_last, 0.25 * of_all);
}

TEST(EncoderPasses, ABlockWithoutGradientRunsAsItIs) {
  at::manual_seed(4);
  const auto model = adapted();
  model->eval();
  lora::set_lora_trainable(*model, kAdapters, false);
  const at::Tensor pixels = random_pixels();
  const at::Tensor plain = model->forward(pixels);
  model->set_gradient_checkpointing(true);
  const at::Tensor features = model->forward(pixels);
  EXPECT_TRUE(at::equal(features, plain));
  EXPECT_FALSE(features.requires_grad());
}

TEST(EncoderPasses, AnotherTypeOrDeviceLeavesTheOneProduct) {
  for (const bool swiglu : {false, true}) {
    Dinov2Config config = small_config();
    config.use_swiglu_ffn = swiglu;
    const auto model = adapted({.r = 2, .target_modules = {"query"}}, config);
    model->eval();
    const at::Tensor pixels = random_pixels();
    const at::Tensor features = model->forward(pixels);
    model->to(at::kDouble);
    for (Dinov2AttentionImpl* attention : attentions(*model)) EXPECT_TRUE(attention->is_one_product());
    EXPECT_LT((model->forward(pixels.to(at::kDouble)) - features).abs().max().item<double>(), 1e-4);
    model->to(at::kCPU, at::kFloat);
    for (Dinov2AttentionImpl* attention : attentions(*model)) EXPECT_TRUE(attention->is_one_product());
    EXPECT_TRUE(at::equal(model->forward(pixels), features));
  }
}

TEST(EncoderPasses, AFrozenWeightIsCastOnceAndAgainWhenItHasChanged) {
  at::Tensor weight = at::randn({4, 4});
  nn::FrozenCast cast;
  EXPECT_TRUE(cast.of(weight).is_same(weight));
  const AutocastScope autocast(nn::kBf16);
  const at::Tensor once = cast.of(weight);
  EXPECT_EQ(once.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(cast.of(weight).is_same(once));
  weight.mul_(2);
  EXPECT_TRUE(at::equal(cast.of(weight), weight.to(at::kBFloat16)));
  // Another weight where a freed one has been.
  std::vector<float> memory(16, 1);
  for (const float value : {1.0F, 2.0F}) {
    std::fill(memory.begin(), memory.end(), value);
    const at::Tensor there = at::from_blob(memory.data(), {4, 4});
    EXPECT_EQ(cast.of(there)[0][0].item<float>(), value);
  }
  weight.requires_grad_();
  EXPECT_TRUE(cast.of(weight).is_same(weight));
}

TEST(EncoderPasses, AMergeOfAnyOfTheThreeIsSeenUnderAutocast) {
  const at::Tensor pixels = random_pixels();
  for (const char* target : {"query", "key", "value", "up_proj"}) {
    Dinov2Config config = small_config();
    config.use_swiglu_ffn = true;
    const auto model = adapted({.r = 2, .lora_alpha = 8, .target_modules = {target}}, config);
    model->eval();
    const at::NoGradGuard no_grad;
    const AutocastScope autocast(nn::kBf16);
    const at::Tensor unmerged = model->forward(pixels);
    for (const lora::NamedLinear& module : lora::adapted_linears(*model)) module.linear->merge();
    const at::Tensor merged = model->forward(pixels);
    for (const lora::NamedLinear& module : lora::adapted_linears(*model)) {
      module.linear->unmerge();
      module.linear->use_adapter(nullptr);
    }
    const at::Tensor plain = model->forward(pixels);
    const auto apart = [](const at::Tensor& a, const at::Tensor& b) {
      return (a - b).abs().mean().item<double>();
    };
    EXPECT_LT(apart(merged, unmerged), 0.2 * apart(plain, unmerged)) << target;
  }
}

TEST(EncoderPasses, CheckpointingUnderAutocastGivesTheSameGradients) {
  at::manual_seed(5);
  const at::Tensor pixels = random_pixels();
  const auto model = adapted();
  model->train();
  const auto gradients = [&] {
    at::Tensor loss;
    {
      const AutocastScope autocast(nn::kBf16);
      loss = model->forward(pixels).to(at::kFloat).square().mean();
    }
    std::vector<at::Tensor> parameters;
    for (const auto& [name, parameter] : lora::lora_parameters(*model)) parameters.push_back(parameter);
    return torch::autograd::grad({loss}, parameters);
  };
  const auto kept = gradients();
  model->set_gradient_checkpointing(true);
  const auto again = gradients();
  for (std::size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(at::equal(again[i], kept[i]));
}

TEST(EncoderPasses, ThreadsShareAModelInBfloat16BitForBit) {
  at::set_num_threads(1);
  at::manual_seed(2);
  const at::Tensor pixels = random_pixels();
  for (int round = 0; round < 10; ++round) {
    const auto fresh = [] {
      auto model = random_model();
      model->set_backbone_trainable(false);
      model->eval();
      return model;
    };
    at::Tensor expected;
    {
      const at::NoGradGuard no_grad;
      const AutocastScope autocast(nn::kBf16);
      expected = fresh()->forward(pixels);
    }
    const auto shared = fresh();
    for (const at::Tensor& found : nn::at_once(4, [&] { return shared->forward(pixels); }))
      ASSERT_TRUE(at::equal(found, expected)) << round;
  }
}

}  // namespace
}  // namespace tessera::vision
