#include "train/adamw.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "core/archive.h"
#include "core/error.h"

namespace tessera::train {
namespace {

const OptimizerConfig kUnclipped{.clip_grad_norm = 0};

ParameterGroup group_of(const std::string& name, const at::Tensor& parameter, double decay) {
  return {name, {name + ".weight"}, {parameter}, 1e-2, decay};
}

/// AdamW as its paper writes it (Loshchilov & Hutter 2019, algorithm 2), in float64.
struct ReferenceAdamW {
  at::Tensor first, second;
  double step = 0;

  void update(at::Tensor& parameter, const at::Tensor& gradient, double rate, double decay) {
    constexpr double beta1 = 0.9, beta2 = 0.98, eps = 1e-8;
    if (!first.defined()) first = second = torch::zeros_like(parameter);
    step += 1;
    first = beta1 * first + (1 - beta1) * gradient;
    second = beta2 * second + (1 - beta2) * gradient * gradient;
    const at::Tensor direction =
        (first / (1 - std::pow(beta1, step))) / ((second / (1 - std::pow(beta2, step))).sqrt() + eps);
    parameter = parameter - rate * (direction + decay * parameter);
  }
};

TEST(AdamW, FollowsThePaper) {
  torch::manual_seed(1);
  at::Tensor parameter = torch::randn({4, 3}, torch::kDouble).requires_grad_();
  at::Tensor expected = parameter.detach().clone();
  AdamW optimizer({group_of("a", parameter, 0.1)}, kUnclipped);
  ReferenceAdamW reference;
  for (int step = 0; step < 5; ++step) {
    const at::Tensor gradient = torch::randn({4, 3}, torch::kDouble);
    parameter.mutable_grad() = gradient.clone();
    optimizer.step({1e-2}, torch::ones({}));
    reference.update(expected, gradient, 1e-2, 0.1);
  }
  EXPECT_TRUE(torch::allclose(parameter, expected, 1e-6, 1e-8));
}

TEST(AdamW, ClipsTheNormOverAllGroups) {
  at::Tensor a = torch::zeros({2}).requires_grad_();
  at::Tensor b = torch::zeros({2}).requires_grad_();
  AdamW optimizer({group_of("a", a, 0), group_of("b", b, 0)}, {.clip_grad_norm = 1.0});
  a.mutable_grad() = torch::full({2}, 3.0);
  b.mutable_grad() = torch::full({2}, 4.0);
  const at::Tensor norm = optimizer.step({0, 0}, torch::ones({}));
  EXPECT_NEAR(norm.item<double>(), std::sqrt(50.0), 1e-4);
  EXPECT_NEAR(torch::cat({a.grad(), b.grad()}).norm().item<double>(), 1.0, 1e-4);
}

TEST(AdamW, NotFiniteChangesNothing) {
  for (const bool bad_loss : {true, false}) {
    at::Tensor parameter = torch::ones({3}).requires_grad_();
    AdamW optimizer({group_of("a", parameter, 0.1)}, {.clip_grad_norm = 1.0});
    const double bad = std::numeric_limits<double>::quiet_NaN();
    parameter.mutable_grad() = torch::full({3}, bad_loss ? 1.0 : bad);
    optimizer.step({0.1}, torch::full({}, bad_loss ? bad : 1.0));
    EXPECT_TRUE(torch::equal(parameter, torch::ones({3})));
    Archive archive;
    optimizer.save(archive);
    EXPECT_EQ(archive.get("step.a.weight").item<float>(), 0.0f);
    EXPECT_EQ(archive.get("first_moment.a.weight").abs().sum().item<float>(), 0.0f);
  }
}

TEST(AdamW, ParametersWithoutAGradientStay) {
  at::Tensor a = torch::ones({2}).requires_grad_();
  at::Tensor b = torch::ones({2}).requires_grad_();
  AdamW optimizer({group_of("a", a, 0.5), group_of("b", b, 0.5)}, kUnclipped);
  a.mutable_grad() = torch::ones({2});
  optimizer.step({0.1, 0.1}, torch::ones({}));
  EXPECT_FALSE(torch::equal(a, torch::ones({2})));
  EXPECT_TRUE(torch::equal(b, torch::ones({2})));
}

TEST(AdamW, CarriesTheMomentsOfParametersThatBothKnow) {
  at::Tensor a = torch::ones({2}).requires_grad_();
  at::Tensor b = torch::ones({2}).requires_grad_();
  AdamW before({group_of("a", a, 0)}, kUnclipped);
  a.mutable_grad() = torch::ones({2});
  before.step({0.1}, torch::ones({}));
  AdamW after({group_of("a", a, 0), group_of("b", b, 0)}, kUnclipped);
  EXPECT_EQ(after.carry_from(before), 1u);
  Archive archive;
  after.save(archive);
  EXPECT_NEAR(archive.get("first_moment.a.weight")[0].item<double>(), 0.1, 1e-7);
  EXPECT_EQ(archive.get("step.a.weight").item<float>(), 1.0f);
  EXPECT_EQ(archive.get("step.b.weight").item<float>(), 0.0f);
}

TEST(AdamW, LoadRefusesAnotherShape) {
  at::Tensor a = torch::ones({2}).requires_grad_();
  at::Tensor wider = torch::ones({3}).requires_grad_();
  Archive archive;
  AdamW({group_of("a", a, 0)}, kUnclipped).save(archive);
  AdamW other({group_of("a", wider, 0)}, kUnclipped);
  EXPECT_THROW(other.load(archive), Error);
}

}  // namespace
}  // namespace tessera::train
