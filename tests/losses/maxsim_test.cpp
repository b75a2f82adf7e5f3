#include "losses/maxsim.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "core/autocast.h"
#include "core/device.h"

namespace tessera::losses {
namespace {

struct Case {
  at::Tensor patches, tokens, mask;
};

at::Tensor unit(at::IntArrayRef sizes, at::ScalarType dtype = at::kDouble) {
  return torch::nn::functional::normalize(at::randn(sizes, at::kDouble),
                                          torch::nn::functional::NormalizeFuncOptions().dim(-1))
      .to(dtype);
}

/// Texts of 1 … T tokens, the first of full length; one token in the middle of another is masked too.
Case make(std::int64_t images, std::int64_t patches, std::int64_t texts, std::int64_t length,
          std::int64_t width, at::ScalarType dtype = at::kDouble) {
  at::manual_seed(images + 10 * patches + 100 * texts + length);
  at::Tensor lengths = at::randint(1, length + 1, {texts}, at::kLong);
  lengths[0] = length;
  at::Tensor mask = at::arange(length).unsqueeze(0) < lengths.unsqueeze(1);
  if (length > 2) mask[0][1] = false;
  return {unit({images, patches, width}, dtype), unit({texts, length, width}, dtype), mask};
}

/// All similarities at once.
MaxSimScores naive(const at::Tensor& patches, const at::Tensor& tokens, const at::Tensor& mask) {
  const at::Tensor similarity = at::einsum("ipd,jtd->ijpt", {patches, tokens});
  const at::Tensor padding = mask.logical_not();
  const at::Tensor of_patch = std::get<0>(
      similarity.masked_fill(padding.unsqueeze(1), -std::numeric_limits<double>::infinity()).max(3));
  const at::Tensor of_token = std::get<0>(similarity.max(2)).masked_fill(padding, 0);
  return {of_patch.mean(2), of_token.sum(2) / mask.sum(1)};
}

struct DifferentiatedScores {
  MaxSimScores scores;
  at::Tensor patches, tokens;
};

/// Scores, and gradients of their sum weighted by numbers that depend on nothing but the shape.
template <typename Compute>
DifferentiatedScores differentiate(const Case& given, const Compute& compute) {
  const at::Tensor patches = given.patches.clone().set_requires_grad(true);
  const at::Tensor tokens = given.tokens.clone().set_requires_grad(true);
  const MaxSimScores scores = compute(patches, tokens, given.mask);
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(5);
  const at::Tensor weights = at::randn({2, patches.size(0), tokens.size(0)}, generator, at::kDouble)
                                 .to(scores.image_to_text.scalar_type());
  (scores.image_to_text * weights[0] + scores.text_to_image * weights[1]).sum().backward();
  return {{scores.image_to_text.detach(), scores.text_to_image.detach()}, patches.grad(), tokens.grad()};
}

auto with(MaxSimKernel kernel) {
  return [kernel](const at::Tensor& patches, const at::Tensor& tokens, const at::Tensor& mask) {
    return maxsim(patches, tokens, mask, kernel);
  };
}

void expect_close(const DifferentiatedScores& a, const DifferentiatedScores& b, double tolerance) {
  const auto close = [tolerance](const at::Tensor& x, const at::Tensor& y) {
    return x.sizes() == y.sizes() && at::allclose(x.to(at::kDouble), y.to(at::kDouble), 0, tolerance);
  };
  EXPECT_TRUE(close(a.scores.image_to_text, b.scores.image_to_text));
  EXPECT_TRUE(close(a.scores.text_to_image, b.scores.text_to_image));
  EXPECT_TRUE(close(a.patches, b.patches));
  EXPECT_TRUE(close(a.tokens, b.tokens));
}

bool same(const DifferentiatedScores& a, const DifferentiatedScores& b) {
  return at::equal(a.scores.image_to_text, b.scores.image_to_text) &&
         at::equal(a.scores.text_to_image, b.scores.text_to_image) && at::equal(a.patches, b.patches) &&
         at::equal(a.tokens, b.tokens);
}

class MaxSim : public ::testing::TestWithParam<MaxSimKernel> {
 protected:
  DifferentiatedScores run(const Case& given) const { return differentiate(given, with(GetParam())); }
};

TEST_P(MaxSim, EqualsTheNaiveOneInValuesAndGradients) {
  for (const Case& given : {make(5, 7, 4, 6, 12), make(1, 1, 1, 1, 3), make(3, 16, 2, 5, 8),
                            make(2, 33, 3, 1, 4), make(1, 300, 6, 4, 8), make(2, 3, 2, 300, 5)}) {
    SCOPED_TRACE(given.patches.sizes());
    expect_close(run(given), differentiate(given, naive), 1e-12);
  }
}

/// More than one tile of texts an image and more than one block of owners, with both kernels.
TEST_P(MaxSim, EqualsTheNaiveOneWhereAChunkHoldsOnlyAPart) {
  const Case given = make(6, 70, 60, 25, 16);
  expect_close(run(given), differentiate(given, naive), 1e-11);
}

TEST_P(MaxSim, AgreesInFloat32) {
  const Case given = make(6, 20, 5, 9, 32, at::kFloat);
  const Case exact{given.patches.to(at::kDouble), given.tokens.to(at::kDouble), given.mask};
  const DifferentiatedScores found = run(given);
  EXPECT_EQ(found.scores.image_to_text.scalar_type(), at::kFloat);
  expect_close(found, differentiate(exact, naive), 2e-6);
}

TEST_P(MaxSim, SumsBfloat16InFloat32) {
  const Case given = make(4, 9, 5, 6, 64, at::kBFloat16);
  const Case exact{given.patches.to(at::kDouble), given.tokens.to(at::kDouble), given.mask};
  const DifferentiatedScores found = run(given), expected = differentiate(exact, naive);
  EXPECT_EQ(found.scores.text_to_image.scalar_type(), at::kFloat);
  EXPECT_TRUE(
      at::allclose(found.scores.image_to_text, expected.scores.image_to_text.to(at::kFloat), 0, 2e-6));
  EXPECT_EQ(found.tokens.scalar_type(), at::kBFloat16);
  EXPECT_TRUE(at::allclose(found.tokens.to(at::kDouble), expected.tokens, 2e-2, 2e-3));
}

TEST_P(MaxSim, WhatStandsAtPaddingChangesNothing) {
  const Case given = make(4, 6, 5, 7, 8);
  const DifferentiatedScores expected = run(given);
  EXPECT_EQ(expected.tokens.masked_select(given.mask.logical_not().unsqueeze(2)).count_nonzero().item<int>(),
            0);
  for (const double content : {100.0, -std::numeric_limits<double>::infinity(), std::nan("")}) {
    Case spoiled = given;
    spoiled.tokens = given.tokens.masked_fill(given.mask.logical_not().unsqueeze(2), content);
    EXPECT_TRUE(same(run(spoiled), expected)) << content;
  }
}

TEST_P(MaxSim, MorePaddingChangesNothing) {
  const Case given = make(4, 6, 5, 7, 8);
  const Case longer{given.patches, at::constant_pad_nd(given.tokens, {0, 0, 0, 4}, 9),
                    at::constant_pad_nd(given.mask, {0, 4})};
  DifferentiatedScores found = run(longer);
  found.tokens = found.tokens.narrow(1, 0, 7);
  expect_close(found, run(given), 1e-12);
}

TEST_P(MaxSim, PermutingABatchPermutesTheScores) {
  const Case given = make(5, 6, 4, 7, 8);
  const at::Tensor images = at::tensor({3, 0, 4, 2, 1}), texts = at::tensor({2, 3, 0, 1});
  const MaxSimScores plain = with(GetParam())(given.patches, given.tokens, given.mask);
  const MaxSimScores permuted =
      with(GetParam())(given.patches.index_select(0, images), given.tokens.index_select(0, texts),
                       given.mask.index_select(0, texts));
  const auto permute = [&](const at::Tensor& scores) {
    return scores.index_select(0, images).index_select(1, texts);
  };
  EXPECT_TRUE(at::allclose(permuted.image_to_text, permute(plain.image_to_text), 0, 1e-14));
  EXPECT_TRUE(at::allclose(permuted.text_to_image, permute(plain.text_to_image), 0, 1e-14));
  EXPECT_FALSE(at::allclose(permuted.image_to_text, plain.image_to_text, 0, 1e-3));
}

/// 40 equal patches, 5 equal tokens: vector lanes must not decide which of them counts.
TEST_P(MaxSim, OfEqualsTheFirstCounts) {
  // Sums of quarters are exact: in whatever order a product adds them up, equals stay equal.
  const at::Tensor one = at::full({4}, 0.5, at::kDouble);
  const Case given{one.expand({1, 40, 4}), one.expand({1, 5, 4}),
                   at::tensor({0, 1, 1, 1, 1}).to(at::kBool).view({1, 5})};
  const DifferentiatedScores found = run(given);
  const at::Tensor of_patches = found.patches[0].abs().sum(1), of_tokens = found.tokens[0].abs().sum(1);
  // Every patch chose token 1, every token patch 0: patch 0 got from both directions.
  EXPECT_GT((of_patches[0] - of_patches[1]).abs().item<double>(), 1e-3);
  EXPECT_TRUE(at::allclose(of_patches.slice(0, 1), of_patches[1]));
  EXPECT_EQ(of_tokens[0].item<double>(), 0);
  EXPECT_GT((of_tokens[1] - of_tokens[2]).abs().item<double>(), 1e-3);
  EXPECT_TRUE(at::allclose(of_tokens.slice(0, 2), of_tokens[2]));
}

TEST_P(MaxSim, ATextWithoutTokensScoresZeroAndLearnsNothing) {
  Case given = make(3, 5, 4, 6, 8);
  given.mask[2].fill_(false);
  const DifferentiatedScores found = run(given);
  EXPECT_EQ(found.scores.image_to_text.select(1, 2).count_nonzero().item<int>(), 0);
  EXPECT_EQ(found.scores.text_to_image.select(1, 2).count_nonzero().item<int>(), 0);
  EXPECT_EQ(found.tokens[2].count_nonzero().item<int>(), 0);
  EXPECT_TRUE(found.patches.isfinite().all().item<bool>());
  EXPECT_GT(found.scores.image_to_text.select(1, 1).count_nonzero().item<int>(), 0);
}

TEST_P(MaxSim, ANanIsNotHidden) {
  Case given = make(3, 5, 4, 6, 8);
  given.patches[1][2].fill_(std::nan(""));
  const MaxSimScores scores = with(GetParam())(given.patches, given.tokens, given.mask);
  EXPECT_FALSE(scores.image_to_text[1].isfinite().any().item<bool>());
  EXPECT_TRUE(scores.image_to_text[0].isfinite().all().item<bool>());
}

TEST_P(MaxSim, NeitherAutocastNorThreadsChangeABit) {
  const Case given = make(9, 11, 8, 7, 16, at::kFloat);
  const DifferentiatedScores expected = run(given);
  {
    const AutocastScope autocast(Compute{c10::kCPU, c10::kBFloat16});
    EXPECT_TRUE(same(run(given), expected));
  }
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const DifferentiatedScores on_one_thread = run(given);
  at::set_num_threads(threads);
  expect_close(on_one_thread, expected, 1e-6);
  if (GetParam() == MaxSimKernel::kCpu) {
    EXPECT_TRUE(same(on_one_thread, expected));
  }
}

TEST_P(MaxSim, GivesEitherGradientAloneAndOfOneDirection) {
  const Case given = make(3, 5, 4, 6, 8);
  const auto gradient = [&](const auto& compute, bool of_patches) {
    const at::Tensor leaf = (of_patches ? given.patches : given.tokens).clone().set_requires_grad(true);
    const MaxSimScores scores =
        of_patches ? compute(leaf, given.tokens, given.mask) : compute(given.patches, leaf, given.mask);
    (of_patches ? scores.image_to_text : scores.text_to_image).sum().backward();
    return leaf.grad();
  };
  for (const bool of_patches : {true, false}) {
    EXPECT_TRUE(at::allclose(gradient(with(GetParam()), of_patches), gradient(naive, of_patches), 0, 1e-12));
  }
}

TEST_P(MaxSim, WrongArgumentsAreRefused) {
  const Case good = make(3, 5, 4, 6, 8);
  const auto call = [&](const at::Tensor& patches, const at::Tensor& tokens, const at::Tensor& mask) {
    return with(GetParam())(patches, tokens, mask);
  };
  EXPECT_NO_THROW(call(good.patches, good.tokens, good.mask));
  EXPECT_THROW(call(good.patches[0], good.tokens, good.mask), c10::Error);
  EXPECT_THROW(call(good.patches, good.tokens.narrow(2, 0, 7), good.mask), c10::Error);
  EXPECT_THROW(call(good.patches, good.tokens, good.mask.narrow(1, 0, 5)), c10::Error);
  EXPECT_THROW(call(good.patches, good.tokens, good.mask.to(at::kLong)), c10::Error);
  EXPECT_THROW(call(good.patches, good.tokens.to(at::kFloat), good.mask), c10::Error);
  EXPECT_THROW(call(good.patches.to(at::kHalf), good.tokens.to(at::kHalf), good.mask), c10::Error);
  EXPECT_THROW(call(good.patches.narrow(1, 0, 0), good.tokens, good.mask), c10::Error);
}

INSTANTIATE_TEST_SUITE_P(Kernel, MaxSim, ::testing::Values(MaxSimKernel::kCpu, MaxSimKernel::kPortable),
                         [](const auto& info) {
                           return info.param == MaxSimKernel::kCpu ? "Cpu" : "Portable";
                         });

}  // namespace
}  // namespace tessera::losses
