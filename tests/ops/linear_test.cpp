#include "ops/linear.h"

#include <ATen/Parallel.h>

#include "core/autocast.h"
#include "core/device.h"
#include "tests/ops/differentiated.h"

namespace tessera::ops {
namespace {

TEST(Linear, AgreesWithLibTorchAlsoInItsGradients) {
  at::manual_seed(1);
  struct Case {
    std::vector<std::int64_t> rows;
    std::int64_t in, out;
  };
  // Sizes of whole registers and beside them, more rows than a block, more depth than a block.
  for (const Case& c : std::vector<Case>{{{96, 37}, 128, 384},
                                         {{70}, 16, 16},
                                         {{3, 33}, 37, 61},
                                         {{65}, 1, 1},
                                         {{4, 5, 20}, 130, 2},
                                         {{201}, 1100, 67}}) {
    std::vector<std::int64_t> shape = c.rows;
    shape.push_back(c.in);
    const std::vector<at::Tensor> inputs{at::randn(shape), at::randn({c.out, c.in}), at::randn({c.out})};
    shape.back() = c.out;
    const at::Tensor cotangent = at::randn(shape);
    const auto ours = [](const std::vector<at::Tensor>& in) { return ops::linear(in[0], in[1], in[2]); };
    const auto theirs = [](const std::vector<at::Tensor>& in) { return at::linear(in[0], in[1], in[2]); };
    expect_agreement(ours, theirs, inputs, cotangent);
    const auto ours_without = [](const std::vector<at::Tensor>& in) { return ops::linear(in[0], in[1]); };
    const auto theirs_without = [](const std::vector<at::Tensor>& in) { return at::linear(in[0], in[1]); };
    expect_agreement(ours_without, theirs_without, {inputs[0], inputs[1]}, cotangent);
  }
}

TEST(Linear, ARowDependsOnNothingBesideItAndNotOnTheThreads) {
  at::manual_seed(2);
  const at::Tensor x = at::randn({211, 96}), weight = at::randn({83, 96}), bias = at::randn({83});
  const at::Tensor whole = ops::linear(x, weight, bias);
  const at::Tensor order = at::randperm(211);
  EXPECT_TRUE(at::equal(ops::linear(x.index_select(0, order), weight, bias), whole.index_select(0, order)));
  EXPECT_TRUE(at::equal(ops::linear(x.slice(0, 100), weight, bias), whole.slice(0, 100)));
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  EXPECT_TRUE(at::equal(ops::linear(x, weight, bias), whole));
  at::set_num_threads(threads);
}

TEST(Linear, TakesInputsOfAnyLayout) {
  at::manual_seed(3);
  const at::Tensor x = at::randn({32, 20, 10}).transpose(0, 2), weight = at::randn({32, 7}).t();
  EXPECT_TRUE(at::allclose(ops::linear(x, weight), at::linear(x, weight), 1e-5, 1e-5));
}

TEST(Linear, ComputesNoGradientThatNobodyAsksFor) {
  at::manual_seed(4);
  at::Tensor x = at::randn({80, 32}).requires_grad_(), weight = at::randn({16, 32});
  ops::linear(x, weight).sum().backward();
  EXPECT_FALSE(weight.grad().defined());
  EXPECT_TRUE(at::allclose(x.grad(), weight.sum(0).expand_as(x), 1e-5, 1e-5));
  x = x.detach();
  weight.requires_grad_();
  ops::linear(x, weight).sum().backward();
  EXPECT_FALSE(x.grad().defined());
  EXPECT_TRUE(at::allclose(weight.grad(), x.sum(0).expand_as(weight), 1e-4, 1e-4));
}

TEST(Linear, LeavesOtherCasesToLibTorch) {
  const at::Tensor x = at::randn({80, 32}), weight = at::randn({16, 32});
  EXPECT_EQ(ops::linear(x.to(at::kDouble), weight.to(at::kDouble)).scalar_type(), at::kDouble);
  EXPECT_TRUE(at::equal(ops::linear(x.slice(0, 0, 3), weight), at::linear(x.slice(0, 0, 3), weight)));
  EXPECT_EQ(ops::linear(x.slice(0, 0, 0), weight).sizes(), at::IntArrayRef({0, 16}));
  EXPECT_THROW(ops::linear(x, at::randn({16, 31})), c10::Error);
  const AutocastScope autocast(Compute{c10::kCPU, c10::kBFloat16});
  EXPECT_EQ(ops::linear(x, weight).scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace tessera::ops
