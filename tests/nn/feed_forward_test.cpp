#include "nn/feed_forward.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace tessera::nn {
namespace {

/// Width 32 and inner width 64, which ops::feed_forward's kernel takes.
struct Half {
  explicit Half(bool gated) : gated(gated) {
    const at::NoGradGuard no_grad;
    for (at::Tensor* tensor : {&norm_weight, &norm_bias}) tensor->normal_();
  }
  FeedForwardModules modules() {
    return {.norm_weight = norm_weight,
            .norm_bias = gated ? at::Tensor() : norm_bias,
            .eps = 1e-5,
            .gate = gated ? gate.get() : nullptr,
            .up = up.get(),
            .down = down.get()};
  }
  bool gated;
  at::Tensor norm_weight = at::empty({32}), norm_bias = at::empty({32});
  Linear gate = drawn_linear(32, 64, false), up = drawn_linear(32, 64, !gated),
         down = drawn_linear(64, 32, !gated);
};

void give_adapter(Linear& linear, double dropout = 0) {
  linear->add_lora({.r = 2, .scaling = 1.5, .dropout = dropout});
  const at::NoGradGuard no_grad;
  linear->lora_a().normal_(0, 0.3);
  linear->lora_b().normal_(0, 0.3);
}

TEST(FeedForward, WithAnAdapterIsWhatItsMergedWeightsGive) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({3, 7, 32});
  for (const bool gated : {true, false}) {
    for (Linear Half::*place : {&Half::gate, &Half::up, &Half::down}) {
      if (!gated && place == &Half::gate) continue;
      Half half(gated);
      const at::Tensor plain = feed_forward(x, half.modules());
      give_adapter(half.*place);
      const at::Tensor adapted = feed_forward(x, half.modules());
      EXPECT_GT((adapted - plain).abs().max().item<double>(), 0.01);
      (half.*place)->merge();
      EXPECT_TRUE(at::allclose(feed_forward(x, half.modules()), adapted, 1e-4, 1e-5)) << gated;
      (half.*place)->unmerge();
      (half.*place)->use_adapter(nullptr);
      EXPECT_TRUE(at::equal(feed_forward(x, half.modules()), plain));
    }
  }
}

TEST(FeedForward, AnAdaptersGradientsReachItAndTheInput) {
  at::manual_seed(2);
  Half half(true);
  for (Linear* linear : {&half.gate, &half.up, &half.down}) {
    for (at::Tensor& parameter : (*linear)->parameters()) parameter.set_requires_grad(false);
    give_adapter(*linear);
  }
  const at::Tensor x = at::randn({5, 32}).requires_grad_();
  feed_forward(x, half.modules()).square().sum().backward();
  EXPECT_GT(x.grad().abs().max().item<double>(), 0);
  for (Linear* linear : {&half.gate, &half.up, &half.down}) {
    EXPECT_GT((*linear)->lora_a().grad().abs().max().item<double>(), 0);
    EXPECT_GT((*linear)->lora_b().grad().abs().max().item<double>(), 0);
    EXPECT_FALSE((*linear)->weight.grad().defined());
  }
}

}  // namespace
}  // namespace tessera::nn
