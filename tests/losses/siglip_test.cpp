#include "losses/siglip.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "core/autocast.h"
#include "core/device.h"
#include "tests/losses/fake_ranks.h"
#include "tests/losses/made_up.h"

namespace tessera::losses {
namespace {

at::Tensor scalar(double value) { return at::scalar_tensor(value, at::kDouble); }

/// −1/B Σ_i Σ_j log σ(z_ij (x_i·y_j / τ + b)), pair by pair.
double siglip_by_loops(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                       double temperature, double bias) {
  double total = 0;
  for (std::int64_t i = 0; i < image.size(0); ++i) {
    for (std::int64_t j = 0; j < text.size(0); ++j) {
      const double logit = image[i].dot(text[j]).item<double>() / temperature + bias;
      const bool same = image_ids[i].item<std::int64_t>() == image_ids[j].item<std::int64_t>();
      total += std::log1p(std::exp(same ? -logit : logit));
    }
  }
  return total / static_cast<double>(image.size(0));
}

class SiglipLoss : public ::testing::Test {
 protected:
  void SetUp() override { at::manual_seed(11); }
  SingleProcess single_;
};

TEST_F(SiglipLoss, EqualsTheFormulaByLoops) {
  const at::Tensor image = unit_rows(5, 8), text = unit_rows(5, 8);
  for (const at::Tensor& ids : {at::arange(5), at::tensor({3, 1, 3, 4, 1}, at::kLong)}) {
    const LossValue loss = siglip_loss(image, text, ids, scalar(0.1), scalar(-2), single_);
    EXPECT_NEAR(loss.mean().item<double>(), siglip_by_loops(image, text, ids, 0.1, -2), 1e-12);
    EXPECT_EQ(loss.count.item<double>(), 5);
  }
}

TEST_F(SiglipLoss, TwoRanksEqualOneWithTheDoubleBatch) {
  const at::Tensor ids = at::tensor({3, 1, 3, 4, 1, 6}, at::kLong);
  at::Tensor image = unit_rows(6, 8).set_requires_grad(true), text = unit_rows(6, 8).set_requires_grad(true);
  at::Tensor temperature = scalar(0.2).set_requires_grad(true), bias = scalar(-1).set_requires_grad(true);
  const std::vector<at::Tensor> leaves = {image, text, temperature, bias};
  const LossValue whole = siglip_loss(image, text, ids, temperature, bias, single_);
  const auto expected = torch::autograd::grad({whole.sum}, leaves);

  const std::vector<at::Tensor> texts = {text.slice(0, 0, 3), text.slice(0, 3)};
  const std::vector<at::Tensor> id_parts = {ids.slice(0, 0, 3), ids.slice(0, 3)};
  at::Tensor sum = at::zeros({}, at::kDouble);
  for (const std::int64_t rank : {0, 1}) {
    FakeRanks ranks(rank, {texts, id_parts});
    const auto r = static_cast<std::size_t>(rank);
    sum = sum +
          siglip_loss(image.slice(0, 3 * rank, 3 * rank + 3), texts[r], id_parts[r], temperature, bias, ranks)
              .sum;
  }
  EXPECT_NEAR(sum.item<double>(), whole.sum.item<double>(), 1e-12);
  const auto found = torch::autograd::grad({sum}, leaves);
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    EXPECT_GT(expected[i].abs().max().item<double>(), 0);
    EXPECT_TRUE(at::allclose(found[i], expected[i], 0, 1e-12)) << i;
  }
}

TEST_F(SiglipLoss, IsFiniteWhereSigmoidsSaturate) {
  at::Tensor image = unit_rows(3, 8).set_requires_grad(true);
  const LossValue loss =
      siglip_loss(image, image.detach(), at::arange(3), scalar(0.001), scalar(-100), single_);
  EXPECT_TRUE(std::isfinite(loss.sum.item<double>()));
  loss.sum.backward();
  EXPECT_TRUE(image.grad().isfinite().all().item<bool>());
}

TEST_F(SiglipLoss, AutocastDoesNotRoundItsLogits) {
  const at::Tensor image = unit_rows(6, 8).to(at::kFloat), text = unit_rows(6, 8).to(at::kFloat);
  const auto loss = [&] {
    return siglip_loss(image, text, at::arange(6), scalar(0.05), scalar(-4), single_).mean().item<float>();
  };
  const float plain = loss();
  const AutocastScope autocast(Compute{c10::kCPU, c10::kBFloat16});
  EXPECT_EQ(loss(), plain);
}

TEST_F(SiglipLoss, WrongShapesAreNamed) {
  const at::Tensor rows = unit_rows(3, 8);
  EXPECT_THROW(siglip_loss(rows, unit_rows(2, 8), at::arange(3), scalar(1), scalar(0), single_), c10::Error);
  EXPECT_THROW(siglip_loss(rows, rows, at::arange(2), scalar(1), scalar(0), single_), c10::Error);
  EXPECT_THROW(siglip_loss(rows, rows, at::arange(3), scalar(1), at::zeros({1}), single_), c10::Error);
}

TEST(SigmoidScale, BeginsAsItIsToldAndTrains) {
  SigmoidScale scale(0.1, 0.01, -10);
  EXPECT_NEAR(scale.temperature().item<double>(), 0.1, 1e-7);
  EXPECT_EQ(scale.bias().item<double>(), -10);
  std::vector<std::string> names;
  for (const auto& parameter : scale.named_parameters()) {
    EXPECT_TRUE(parameter.value().requires_grad()) << parameter.key();
    names.push_back(parameter.key());
  }
  EXPECT_EQ(names, (std::vector<std::string>{"bias", "temperature.log_inverse"}));
}

}  // namespace
}  // namespace tessera::losses
