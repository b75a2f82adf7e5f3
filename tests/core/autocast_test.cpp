#include "core/autocast.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "core/device.h"

namespace tessera {
namespace {

at::Tensor product() { return at::matmul(at::ones({2, 3}), at::ones({3, 2})); }

TEST(AutocastScope, CastsInsideAndRestoresOutside) {
  const Compute bf16{c10::kCPU, c10::kBFloat16};
  const Compute fp32{c10::kCPU, c10::kFloat};
  EXPECT_EQ(product().scalar_type(), at::kFloat);
  {
    const AutocastScope scope(bf16);
    EXPECT_EQ(product().scalar_type(), at::kBFloat16);
    {
      const AutocastScope inner(bf16);
      EXPECT_EQ(product().scalar_type(), at::kBFloat16);
    }
    EXPECT_EQ(product().scalar_type(), at::kBFloat16);
  }
  EXPECT_EQ(product().scalar_type(), at::kFloat);
  const AutocastScope scope(fp32);
  EXPECT_EQ(product().scalar_type(), at::kFloat);
}

TEST(AutocastScope, IsRestoredByAnException) {
  EXPECT_THROW(
      {
        const AutocastScope scope({c10::kCPU, c10::kBFloat16});
        throw std::runtime_error("inside");
      },
      std::runtime_error);
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
  EXPECT_EQ(product().scalar_type(), at::kFloat);
}

// Autocast keeps bf16 copies of parameters; one that outlived its scope would hide the optimizer's update.
TEST(AutocastScope, ForgetsCastParametersAtItsEnd) {
  const Compute bf16{c10::kCPU, c10::kBFloat16};
  const at::Tensor parameter = at::ones({2, 2}).requires_grad_();
  const auto sum = [&] {
    const AutocastScope scope(bf16);
    return at::matmul(at::ones({1, 2}), parameter).sum().item<double>();
  };
  EXPECT_EQ(sum(), 4.0);
  parameter.detach().mul_(2);
  EXPECT_EQ(sum(), 8.0);
}

TEST(AutocastScope, BringsAStateBackWhereAnotherIsInForce) {
  const AutocastState off = AutocastState::of(c10::kCPU);
  EXPECT_FALSE(off.enabled);
  const AutocastScope bf16(Compute{c10::kCPU, c10::kBFloat16});
  const AutocastState on = AutocastState::of(c10::kCPU);
  EXPECT_TRUE(on.enabled);
  EXPECT_EQ(on.dtype, at::kBFloat16);
  {
    const AutocastScope again(off);
    EXPECT_EQ(product().scalar_type(), at::kFloat);
    const AutocastScope half({c10::kCPU, /*enabled=*/true, c10::kHalf});
    EXPECT_EQ(product().scalar_type(), at::kHalf);
  }
  EXPECT_EQ(product().scalar_type(), at::kBFloat16);
}

TEST(NoAutocast, HoldsForItsScopeAlone) {
  { const NoAutocast nothing_to_switch_off; }
  EXPECT_FALSE(at::autocast::is_autocast_enabled(at::kCPU));
  const AutocastScope bf16(Compute{c10::kCPU, c10::kBFloat16});
  {
    const NoAutocast no_autocast;
    EXPECT_EQ(product().scalar_type(), at::kFloat);
    EXPECT_FALSE(AutocastState::of(c10::kCPU).enabled);
  }
  EXPECT_EQ(product().scalar_type(), at::kBFloat16);
}

}  // namespace
}  // namespace tessera
