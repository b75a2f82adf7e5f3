#include "nn/linear.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/linear.h>

#include "core/autocast.h"
#include "core/device.h"

namespace tessera::nn {
namespace {

Linear random_linear(std::int64_t in, std::int64_t out) {
  Linear linear(in, out);
  const at::NoGradGuard no_grad;
  linear->weight.normal_(0, 0.3);
  linear->bias.normal_();
  return linear;
}

void fill_adapter(Linear& linear) {
  const at::NoGradGuard no_grad;
  linear->lora_a().normal_();
  linear->lora_b().normal_();
}

TEST(Linear, AdapterIsAddedWithItsScaling) {
  at::manual_seed(1);
  Linear linear = random_linear(6, 5);
  linear->add_lora({.r = 3, .scaling = 1.7, .dropout = 0.5});
  fill_adapter(linear);
  linear->eval();
  for (const at::Tensor& input :
       {at::randn({6}), at::randn({4, 6}), at::randn({2, 4, 6}), at::randn({4, 2, 6}).transpose(0, 1)}) {
    const at::Tensor merged = linear->weight + 1.7 * linear->lora_b().matmul(linear->lora_a());
    const at::Tensor expected = input.matmul(merged.t()) + linear->bias;
    const at::Tensor output = linear->forward(input);
    ASSERT_EQ(output.sizes(), expected.sizes());
    EXPECT_TRUE(at::allclose(output, expected, 1e-5, 1e-5));
  }
}

TEST(Linear, DropoutActsOnTheAdaptersInputAndOnlyInTraining) {
  at::manual_seed(2);
  Linear linear = random_linear(64, 8);
  linear->add_lora({.r = 8, .scaling = 1.0, .dropout = 0.5});
  const at::Tensor input = at::randn({3, 64});
  const at::Tensor base = at::linear(input, linear->weight, linear->bias);
  linear->train();
  EXPECT_TRUE(at::allclose(linear->forward(input), base)) << "with B = 0 dropout must change nothing";
  fill_adapter(linear);
  const at::Tensor adapter = input.matmul(linear->lora_a().t()).matmul(linear->lora_b().t());
  EXPECT_FALSE(at::allclose(linear->forward(input) - base, adapter, 1e-2, 1e-2));
  at::Tensor mean = at::zeros_like(adapter);
  for (int i = 0; i < 2000; ++i) {
    mean += (linear->forward(input) - base).detach() / 2000;
  }
  EXPECT_LT((mean - adapter).norm().item<double>(), 0.1 * adapter.norm().item<double>());
  linear->eval();
  EXPECT_TRUE(at::allclose(linear->forward(input) - base, adapter, 1e-4, 1e-4));
}

TEST(Linear, GradientsAreThoseOfTheFormula) {
  at::manual_seed(3);
  Linear linear = random_linear(6, 5);
  linear->add_lora({.r = 2, .scaling = 0.7});
  fill_adapter(linear);
  linear->weight.set_requires_grad(false);
  at::Tensor input = at::randn({2, 3, 6}).set_requires_grad(true);
  const at::Tensor cotangent = at::randn({2, 3, 5});
  linear->forward(input).backward(cotangent);
  const at::Tensor rows = input.detach().view({6, 6});
  const at::Tensor g = cotangent.view({6, 5});
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(at::allclose(linear->lora_b().grad(), 0.7 * g.t().matmul(rows.matmul(linear->lora_a().t())),
                           1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(linear->lora_a().grad(), 0.7 * linear->lora_b().t().matmul(g.t()).matmul(rows),
                           1e-4, 1e-5));
  EXPECT_TRUE(at::allclose(linear->bias.grad(), g.sum(0), 1e-4, 1e-5));
  const at::Tensor merged = linear->weight + 0.7 * linear->lora_b().matmul(linear->lora_a());
  EXPECT_TRUE(at::allclose(input.grad().view({6, 6}), g.matmul(merged), 1e-4, 1e-5));
  EXPECT_FALSE(linear->weight.grad().defined());
}

TEST(Linear, RunsUnderAutocast) {
  at::manual_seed(4);
  Linear linear = random_linear(32, 16);
  linear->add_lora({.r = 4, .scaling = 0.5});
  fill_adapter(linear);
  const at::Tensor input = at::randn({2, 5, 32});
  const at::Tensor expected = linear->forward(input).detach();
  at::Tensor output;
  {
    const AutocastScope autocast(Compute{c10::kCPU, c10::kBFloat16});
    output = linear->forward(input);
  }
  EXPECT_EQ(output.scalar_type(), at::kBFloat16);
  EXPECT_LT((output.to(at::kFloat) - expected).norm().item<double>(), 0.02 * expected.norm().item<double>());
  output.to(at::kFloat).sum().backward();
  EXPECT_EQ(linear->lora_b().grad().scalar_type(), at::kFloat);
  EXPECT_GT(linear->lora_a().grad().norm().item<double>(), 0);
}

TEST(Linear, ParametersAreNamedAsInPeft) {
  Linear linear(3, 2);
  linear->add_lora({.r = 1});
  std::vector<std::string> names;
  for (const auto& item : linear->named_parameters()) {
    names.push_back(item.key());
  }
  EXPECT_THAT(names, testing::ElementsAre("weight", "bias", "lora_A.weight", "lora_B.weight"));
}

TEST(Linear, MergingAddsTheProductExactly) {
  at::manual_seed(5);
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    Linear linear(7, 5);
    linear->to(dtype);
    linear->add_lora({.r = 3, .scaling = 1.7});
    const at::NoGradGuard no_grad;
    for (at::Tensor* tensor : {&linear->weight, &linear->lora_a(), &linear->lora_b()}) tensor->normal_();
    const at::Tensor expected = (linear->weight.to(at::kDouble) +
                                 1.7 * linear->lora_b().to(at::kDouble).mm(linear->lora_a().to(at::kDouble)))
                                    .to(dtype);
    linear->merge_lora();
    // Within one rounding: the sum's order is the library's.
    EXPECT_TRUE(at::allclose(linear->weight, expected, dtype == at::kFloat ? 1e-7 : 1e-15,
                             dtype == at::kFloat ? 1e-7 : 1e-14))
        << dtype;
    EXPECT_EQ(linear->weight.scalar_type(), dtype);
    EXPECT_FALSE(linear->has_lora());
    EXPECT_EQ(linear->named_parameters().keys(), (std::vector<std::string>{"weight", "bias"}));
    EXPECT_THROW(linear->merge_lora(), c10::Error);
    linear->add_lora({.r = 2});  // a next one may come
    EXPECT_TRUE(linear->has_lora());
  }
}

TEST(Linear, ItsDrawsAreThoseOfLibTorchsLinear) {
  for (const bool with_bias : {true, false}) {
    at::manual_seed(6);
    const torch::nn::Linear theirs(torch::nn::LinearOptions(7, 5).bias(with_bias));
    const at::Tensor next = at::rand({3});
    at::manual_seed(6);
    const Linear ours = drawn_linear(7, 5, with_bias);
    EXPECT_TRUE(at::equal(ours->weight, theirs->weight));
    EXPECT_EQ(ours->bias.defined(), with_bias);
    EXPECT_TRUE(!with_bias || at::equal(ours->bias, theirs->bias));
    EXPECT_TRUE(at::equal(at::rand({3}), next)) << "what is drawn after it must stay";
  }
}

TEST(Linear, RefusesWhatCannotBe) {
  Linear linear(3, 2);
  EXPECT_THROW(linear->forward(at::zeros({2, 4})), c10::Error);
  EXPECT_THROW(linear->lora_a(), c10::Error);
  EXPECT_THROW(linear->add_lora({.r = 0}), c10::Error);
  EXPECT_THROW(linear->add_lora({.r = 1, .dropout = 1.0}), c10::Error);
  linear->add_lora({.r = 1});
  EXPECT_THROW(linear->add_lora({.r = 1}), c10::Error);
}

}  // namespace
}  // namespace tessera::nn
