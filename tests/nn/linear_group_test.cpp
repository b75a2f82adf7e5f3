#include "nn/linear_group.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <vector>

namespace tessera::nn {
namespace {

/// Three Linears of random parameters, frozen.
std::vector<Linear> frozen_linears(bool with_bias) {
  std::vector<Linear> linears;
  for (int i = 0; i < 3; ++i) {
    linears.push_back(drawn_linear(6, 5, with_bias));
    for (at::Tensor& parameter : linears.back()->parameters()) parameter.set_requires_grad(false);
  }
  return linears;
}

void adapt(Linear& linear, const LoraAdapterOptions& options) {
  linear->add_lora(options);
  const at::NoGradGuard no_grad;
  linear->lora_a().normal_();
  linear->lora_b().normal_();
}

TEST(LinearGroup, GivesWhatItsLinearsGive) {
  at::manual_seed(1);
  const at::Tensor rows = at::randn({4, 6});
  for (const bool with_bias : {true, false}) {
    std::vector<Linear> linears = frozen_linears(with_bias);
    LinearGroup group(linears);
    ASSERT_TRUE(group.is_one_product());
    EXPECT_FALSE(group.has_active_adapter());
    const auto expect_same = [&](const char* what) {
      const std::vector<at::Tensor> outputs = group.outputs(rows);
      for (std::size_t i = 0; i < 3; ++i)
        EXPECT_TRUE(at::allclose(outputs[i], linears[i]->forward(rows), 1e-5, 1e-6))
            << what << i << with_bias;
    };
    expect_same("plain");
    EXPECT_TRUE(at::equal(group.base_products(rows).slice(1, 5, 10), group.outputs(rows)[1]));
    adapt(linears[0], {.r = 2, .scaling = 0.7});
    adapt(linears[2], {.r = 3, .scaling = 1.5});
    EXPECT_TRUE(group.has_active_adapter());
    EXPECT_TRUE(group.is_one_product());
    expect_same("adapted");
    linears[2]->merge();
    EXPECT_TRUE(group.is_one_product());
    expect_same("one merged");
  }
}

TEST(LinearGroup, IsNoOneProductWhereSomethingTrainsScalesOrLiesElsewhere) {
  std::vector<Linear> linears = frozen_linears(true);
  LinearGroup group(linears);
  linears[1]->bias.set_requires_grad(true);
  EXPECT_FALSE(group.is_one_product());
  linears[1]->bias.set_requires_grad(false);
  adapt(linears[1], {.r = 2, .dora = true});
  EXPECT_FALSE(group.is_one_product()) << "DoRA scales the rows";
  linears[1]->merge_lora();
  EXPECT_TRUE(group.is_one_product());
  linears[1]->weight.set_data(linears[1]->weight.clone());
  EXPECT_FALSE(group.is_one_product());
  group.pack();
  EXPECT_TRUE(group.is_one_product());
}

TEST(LinearGroup, EachAdaptersDropoutIsItsOwn) {
  at::manual_seed(2);
  std::vector<Linear> linears = frozen_linears(true);
  LinearGroup group(linears);
  for (std::size_t i = 0; i < 2; ++i) adapt(linears[i], {.r = 4, .scaling = 1, .dropout = 0.5});
  const at::Tensor rows = at::randn({64, 6});
  const at::Tensor plain = group.base_products(rows);
  for (Linear& linear : linears) linear->train();
  // The share of outputs that no dropped input has reached: what is drawn twice differs.
  const std::vector<at::Tensor> once = group.outputs(rows), again = group.outputs(rows);
  EXPECT_FALSE(at::allclose(once[0], again[0]));
  EXPECT_TRUE(at::equal(once[2], plain.slice(1, 10))) << "no adapter, no dropout";
  for (Linear& linear : linears) linear->eval();
  EXPECT_TRUE(at::equal(group.outputs(rows)[0], group.outputs(rows)[0]));
}

}  // namespace
}  // namespace tessera::nn
