#include "ops/feed_forward.h"

#include <ATen/Parallel.h>

#include <cmath>

#include "tests/ops/differentiated.h"

namespace tessera::ops {
namespace {

struct Sizes {
  std::vector<std::int64_t> rows;
  std::int64_t width, inner;
};

std::vector<Sizes> sizes() {
  // Two blocks of rows, a part of one, one row; the widths of the quickstart's blocks; and widths that the
  // kernel leaves to LibTorch.
  return {{{6, 37}, 128, 512}, {{5, 13}, 64, 48}, {{1}, 32, 16}, {{4, 3}, 20, 36}};
}

std::vector<std::int64_t> shape_of(const Sizes& s) {
  std::vector<std::int64_t> shape = s.rows;
  shape.push_back(s.width);
  return shape;
}

at::Tensor weights(std::int64_t out, std::int64_t in) {
  return at::randn({out, in}) / std::sqrt(static_cast<double>(in));
}

TEST(FeedForward, WithLayerNormAndGeluAgreesWithTheFormula) {
  at::manual_seed(1);
  for (const Sizes& s : sizes()) {
    const std::vector<at::Tensor> inputs{at::randn(shape_of(s)) * 2 + 0.5,
                                         at::randn({s.width}),
                                         at::randn({s.width}),
                                         weights(s.inner, s.width),
                                         at::randn({s.inner}),
                                         weights(s.width, s.inner),
                                         at::randn({s.width})};
    const auto ours = [](const std::vector<at::Tensor>& in) {
      return feed_forward(in[0], {.norm_weight = in[1],
                                  .norm_bias = in[2],
                                  .eps = 1e-5,
                                  .up = in[3],
                                  .up_bias = in[4],
                                  .down = in[5],
                                  .down_bias = in[6]});
    };
    const auto theirs = [](const std::vector<at::Tensor>& in) {
      const at::Tensor normed = at::layer_norm(in[0], in[1].sizes(), in[1], in[2], 1e-5);
      return in[0] + at::linear(at::gelu(at::linear(normed, in[3], in[4])), in[5], in[6]);
    };
    expect_agreement(ours, theirs, inputs, at::randn(shape_of(s)));
  }
}

TEST(FeedForward, WithRmsNormAndSwigluAgreesWithTheFormula) {
  at::manual_seed(2);
  for (const Sizes& s : sizes()) {
    const std::vector<at::Tensor> inputs{at::randn(shape_of(s)) * 2 + 0.5, at::randn({s.width}),
                                         weights(s.inner, s.width), weights(s.inner, s.width),
                                         weights(s.width, s.inner)};
    const auto ours = [](const std::vector<at::Tensor>& in) {
      return feed_forward(in[0],
                          {.norm_weight = in[1], .eps = 1e-5, .gate = in[2], .up = in[3], .down = in[4]});
    };
    const auto theirs = [](const std::vector<at::Tensor>& in) {
      const at::Tensor normed = in[0] / at::sqrt(in[0].square().mean(-1, true) + 1e-5) * in[1];
      return in[0] + at::linear(at::silu(at::linear(normed, in[2])) * at::linear(normed, in[3]), in[4]);
    };
    expect_agreement(ours, theirs, inputs, at::randn(shape_of(s)));
  }
}

TEST(FeedForward, ARowDependsOnNothingBesideItAndNotOnTheThreads) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({300, 64}), norm = at::randn({64}), gate = weights(96, 64),
                   up = weights(96, 64), down = weights(64, 96);
  const auto f = [&](const at::Tensor& rows) {
    return feed_forward(rows, {.norm_weight = norm, .eps = 1e-5, .gate = gate, .up = up, .down = down});
  };
  const at::Tensor whole = f(x), order = at::randperm(300);
  EXPECT_TRUE(at::equal(f(x.index_select(0, order)), whole.index_select(0, order)));
  EXPECT_TRUE(at::equal(f(x.slice(0, 217, 218)), whole.slice(0, 217, 218)));
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  EXPECT_TRUE(at::equal(f(x), whole));
  at::set_num_threads(threads);
}

TEST(FeedForward, FrozenWeightsStillPassTheGradientOn) {
  at::manual_seed(4);
  at::Tensor x = at::randn({100, 32}).requires_grad_();
  at::Tensor norm = at::randn({32}), gate = weights(48, 32), up = weights(48, 32), down = weights(32, 48);
  const at::Tensor cotangent = at::randn({100, 32});
  const auto gradient = [&] {
    const at::Tensor y =
        feed_forward(x, {.norm_weight = norm, .eps = 1e-5, .gate = gate, .up = up, .down = down});
    return torch::autograd::grad({(y * cotangent).sum()}, {x})[0];
  };
  const at::Tensor frozen = gradient();
  for (at::Tensor* weight : {&norm, &gate, &up, &down}) weight->requires_grad_();
  EXPECT_TRUE(at::equal(gradient(), frozen));
}

TEST(FeedForward, RefusesShapesThatDontFit) {
  EXPECT_THROW(
      feed_forward(
          at::ones({2, 3}),
          {.norm_weight = at::ones({3}), .eps = 1e-5, .up = at::ones({4, 5}), .down = at::ones({3, 4})}),
      c10::Error);
}

}  // namespace
}  // namespace tessera::ops
