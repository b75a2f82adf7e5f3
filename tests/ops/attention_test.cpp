#include "ops/attention.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "core/autocast.h"
#include "core/device.h"
#include "ops/cpu/vectors.h"

namespace tessera::ops {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();

/// The formula, in float64: [B, T, heads, D] operands, any bias.
at::Tensor by_the_formula(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                          const at::Tensor& bias, bool is_causal) {
  const auto by_head = [](const at::Tensor& x) { return x.to(at::kDouble).transpose(1, 2); };
  at::Tensor scores = at::matmul(by_head(query), by_head(key).transpose(2, 3)) /
                      std::sqrt(static_cast<double>(query.size(3)));
  if (bias.defined()) scores = scores + bias.to(at::kDouble);
  if (is_causal) {
    const at::Tensor later = at::ones({query.size(1), key.size(1)}, at::kBool).triu(1);
    scores = scores.masked_fill(later, kNever);
  }
  return at::matmul(scores.softmax(-1), by_head(value)).transpose(1, 2);
}

struct Case {
  const char* name;
  std::int64_t batch, queries, keys, heads, head_size;
  bool is_causal = false;
  bool with_bias = false, bias_by_query = false;
};

void PrintTo(const Case& shape, std::ostream* out) { *out << shape.name; }

at::Tensor random_bias(const Case& shape) {
  if (!shape.with_bias) return {};
  const at::Tensor hidden =
      at::rand({shape.batch, 1, shape.bias_by_query ? shape.queries : 1, shape.keys}) < 0.4;
  hidden.select(3, 0).fill_(false);  // a row that reads nothing has no softmax
  return at::randn(hidden.sizes()).masked_fill(hidden, kNever);
}

/// Operands of both precisions; where they are narrow under autocast, which is where attention meets them.
struct Precision {
  at::ScalarType dtype;
  std::optional<AutocastScope> autocast;

  explicit Precision(at::ScalarType type) : dtype(type) {
    if (type == at::kBFloat16) autocast.emplace(Compute{c10::kCPU, type});
  }
  at::Tensor operator()(const at::Tensor& x) const { return x.to(dtype); }
};
constexpr at::ScalarType kPrecisions[] = {at::kFloat, at::kBFloat16};

class AttentionTest : public ::testing::TestWithParam<Case> {};

TEST_P(AttentionTest, AgreesWithTheFormulaAlsoInItsGradients) {
  const Case& shape = GetParam();
  for (const at::ScalarType precision : kPrecisions) {
    at::manual_seed(1);
    const Precision operand(precision);
    const at::Tensor query =
        operand(at::randn({shape.batch, shape.queries, shape.heads, shape.head_size}) * 2);
    const at::Tensor key = operand(at::randn({shape.batch, shape.keys, shape.heads, shape.head_size}));
    const at::Tensor value = operand(at::randn(key.sizes()));
    const at::Tensor cotangent = operand(at::randn(query.sizes()));
    const at::Tensor bias = random_bias(shape);
    const auto gradients = [&](const auto& function, at::ScalarType dtype) {
      std::vector<at::Tensor> inputs;
      for (const at::Tensor& x : {query, key, value})
        inputs.push_back(x.to(dtype).detach().clone().requires_grad_());
      const at::Tensor output = function(inputs[0], inputs[1], inputs[2], bias, shape.is_causal);
      auto result = torch::autograd::grad({(output * cotangent.to(dtype)).sum()}, inputs);
      result.push_back(output.detach());
      return result;
    };
    const auto found = gradients(attention, precision);
    const auto expected = gradients(by_the_formula, at::kDouble);
    for (std::size_t i = 0; i < found.size(); ++i) {
      ASSERT_EQ(found[i].sizes(), expected[i].sizes());
      EXPECT_EQ(found[i].scalar_type(), precision);
      // Weights and gradients of scores are rounded to 8 bits before they are multiplied, and so is the
      // result.
      const double tolerance =
          precision == at::kFloat ? 2e-5 : 0.02 * std::max(1.0, expected[i].abs().max().item<double>());
      EXPECT_LE((found[i].to(at::kDouble) - expected[i]).abs().max().item<double>(), tolerance)
          << "tensor " << i << " in " << precision;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, AttentionTest,
                         ::testing::Values(Case{"one of each", 1, 1, 1, 1, 16},
                                           Case{"image within itself", 3, 37, 37, 4, 32},
                                           Case{"text reads image", 2, 13, 37, 4, 32},
                                           Case{"image reads text", 2, 37, 13, 2, 64, false, true},
                                           Case{"whole vectors of keys", 2, 5, 32, 1, 48},
                                           Case{"causal text", 2, 19, 19, 4, 32, true},
                                           Case{"causal text with padding", 2, 19, 19, 2, 32, true, true},
                                           Case{"a bias for each query", 2, 7, 21, 2, 16, false, true, true},
                                           Case{"several blocks of queries", 1, 200, 200, 2, 64, true, true},
                                           Case{"DINOv2 at 224 pixels", 1, 257, 257, 2, 64},
                                           Case{"heads of no whole vectors", 2, 9, 11, 2, 24, false, true},
                                           Case{"more keys than the kernel takes", 1, 3, 600, 1, 16}),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::erase_if(name, [](char character) {
                             return std::isalnum(static_cast<unsigned char>(character)) == 0;
                           });
                           return name;
                         });

TEST(AttentionTest, PackedOperandsAreTheSameAndHaveOneGradient) {
  for (const at::ScalarType precision : kPrecisions) {
    at::manual_seed(2);
    const Precision operand(precision);
    const at::Tensor packed = operand(at::randn({2, 9, 3, 2, 32}));
    const at::Tensor cotangent = operand(at::randn({2, 9, 2, 32}));
    const auto differentiated = [&](const auto& function) {
      const at::Tensor x = packed.clone().requires_grad_();
      const at::Tensor output = function(x);
      return std::pair(output.detach(), torch::autograd::grad({(output * cotangent).sum()}, {x})[0]);
    };
    const auto apart = differentiated(
        [](const at::Tensor& x) { return attention(x.select(2, 0), x.select(2, 1), x.select(2, 2)); });
    const auto within = differentiated([](const at::Tensor& x) { return self_attention(x); });
    const auto across =
        differentiated([](const at::Tensor& x) { return cross_attention(x.select(2, 0), x.slice(2, 1)); });
    for (const auto& found : {within, across}) {
      EXPECT_TRUE(at::equal(found.first, apart.first));
      EXPECT_TRUE(at::equal(found.second, apart.second));
    }
  }
}

TEST(AttentionTest, ARowDependsOnNeitherItsBatchNorTheThreads) {
  for (const at::ScalarType precision : kPrecisions) {
    at::manual_seed(3);
    const Precision operand(precision);
    const at::Tensor packed = operand(at::randn({5, 37, 3, 2, 32}));
    const at::Tensor together = self_attention(packed);
    EXPECT_TRUE(at::equal(self_attention(packed.slice(0, 3, 4)), together.slice(0, 3, 4)));
    const int threads = at::get_num_threads();
    at::set_num_threads(1);
    EXPECT_TRUE(at::equal(self_attention(packed), together));
    at::set_num_threads(threads);
  }
}

TEST(AttentionTest, WhatMayNotBeReadChangesNothing) {
  for (const at::ScalarType precision : kPrecisions) {
    at::manual_seed(4);
    const Precision operand(precision);
    const at::Tensor query = operand(at::randn({2, 5, 2, 32}));
    at::Tensor key_value = operand(at::randn({2, 11, 2, 2, 32}));
    const at::Tensor bias = at::zeros({1, 1, 1, 11});
    bias.slice(3, 7).fill_(kNever);
    const at::Tensor before = cross_attention(query, key_value, bias);
    key_value.slice(1, 7).normal_().mul_(100);
    EXPECT_TRUE(at::equal(cross_attention(query, key_value, bias), before));
    EXPECT_TRUE(at::allclose(cross_attention(query, key_value.slice(1, 0, 7)), before, 1e-5, 1e-6));
  }
}

TEST(AttentionTest, AQueryThatMayReadNothingGivesZeroAndNoGradient) {
  for (const at::ScalarType precision : kPrecisions) {
    at::manual_seed(6);
    const Precision operand(precision);
    for (const std::int64_t head_size : {32, 24}) {  // the kernel's, and LibTorch's
      const at::Tensor query = operand(at::randn({2, 3, 2, head_size})).requires_grad_();
      const at::Tensor key_value = operand(at::randn({2, 5, 2, 2, head_size})).requires_grad_();
      at::Tensor bias = at::zeros({2, 1, 1, 5});
      bias[0].fill_(kNever);
      const at::Tensor output = cross_attention(query, key_value, bias);
      EXPECT_EQ(output[0].count_nonzero().item<int>(), 0);
      EXPECT_TRUE(at::equal(output[1], cross_attention(query.slice(0, 1), key_value.slice(0, 1))[0]));
      for (const at::Tensor& gradient : torch::autograd::grad({output.sum()}, {query, key_value})) {
        EXPECT_TRUE(gradient.isfinite().all().item<bool>());
        EXPECT_EQ(gradient[0].count_nonzero().item<int>(), 0);
      }
    }
  }
}

TEST(AttentionTest, GradientsOfTheRestAreTheSameWhereOneOperandIsFixed) {
  at::manual_seed(7);
  const at::Tensor query = at::randn({2, 3, 2, 32}).requires_grad_();
  const at::Tensor key_value = at::randn({2, 5, 2, 2, 32}).requires_grad_();
  const auto both = torch::autograd::grad({cross_attention(query, key_value).sum()}, {query, key_value});
  EXPECT_TRUE(at::equal(
      torch::autograd::grad({cross_attention(query.detach(), key_value).sum()}, {key_value})[0], both[1]));
  EXPECT_TRUE(at::equal(torch::autograd::grad({cross_attention(query, key_value.detach()).sum()}, {query})[0],
                        both[0]));
}

TEST(AttentionTest, UnderAutocastWhatTheNarrowKernelDoesNotServeIsComputedInFloat32) {
  at::manual_seed(5);
  const at::Tensor packed = at::randn({2, 9, 3, 2, 24}).to(at::kBFloat16);
  const Precision narrow(at::kBFloat16);
  const at::Tensor found = self_attention(packed);
  EXPECT_EQ(found.scalar_type(), at::kBFloat16);
  const at::Tensor wide = self_attention(packed.to(at::kFloat));
  EXPECT_TRUE(at::equal(found, wide.to(at::kBFloat16)));
}

TEST(AttentionTest, NarrowOperandsWithOddStridesAreTheSame) {
  at::manual_seed(8);
  const Precision narrow(at::kBFloat16);
  const at::Tensor query = at::randn({2, 5, 2, 33}).to(at::kBFloat16).slice(3, 1);
  const at::Tensor key = at::randn({2, 7, 2, 33}).to(at::kBFloat16).slice(3, 0, 32);
  EXPECT_TRUE(at::equal(attention(query, key, key),
                        attention(query.contiguous(), key.contiguous(), key.contiguous())));
}

TEST(AttentionTest, SaysInWhichPrecisionItKeepsItsOperands) {
  const auto keeps = [](c10::Device device, at::ScalarType dtype, std::int64_t head_size) {
    const AttentionKept kept = attention_keeps(device, dtype, head_size);
    return std::pair(kept.dtype, kept.output);
  };
  EXPECT_EQ(keeps(c10::kCPU, at::kFloat, 64), std::pair(at::kFloat, false));
  EXPECT_EQ(keeps(c10::kCPU, at::kBFloat16, 64),
            cpu::multiplies_bfloat16() ? std::pair(at::kBFloat16, false) : std::pair(at::kFloat, true));
  for (const at::ScalarType dtype : kPrecisions) {
    EXPECT_EQ(keeps(c10::kCPU, dtype, 24), std::pair(at::kFloat, true)) << "LibTorch's";
    EXPECT_EQ(keeps(c10::kMeta, dtype, 64), std::pair(dtype, false)) << "another device's";
  }
}

TEST(AttentionTest, RefusesOperandsThatDontFit) {
  const at::Tensor x = at::zeros({2, 3, 2, 16});
  EXPECT_THROW(attention(x, at::zeros({2, 4, 1, 16}), at::zeros({2, 4, 1, 16})), c10::Error);
  EXPECT_THROW(attention(x, x, at::zeros({2, 4, 2, 16})), c10::Error);
  EXPECT_THROW(attention(x, x, x, at::zeros({2, 2, 3, 3})), c10::Error);
  EXPECT_THROW(self_attention(at::zeros({2, 3, 2, 2, 16})), c10::Error);
  EXPECT_THROW(cross_attention(x, at::zeros({2, 3, 3, 2, 16})), c10::Error);
}

}  // namespace
}  // namespace tessera::ops
