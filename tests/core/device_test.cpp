#include "core/device.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>

#include "core/error.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

TEST(ChooseCompute, CpuIsFp32UnlessAskedOtherwise) {
  EXPECT_EQ(choose_compute(DeviceChoice::kCpu, PrecisionChoice::kAuto, 0).device, c10::Device(c10::kCPU));
  EXPECT_EQ(choose_compute(DeviceChoice::kCpu, PrecisionChoice::kAuto, 0).dtype, c10::kFloat);
  const Compute bf16 = choose_compute(DeviceChoice::kCpu, PrecisionChoice::kBf16, 0);
  EXPECT_EQ(bf16.dtype, c10::kBFloat16);
  EXPECT_THAT(bf16.describe(), HasSubstr("cpu, bf16, "));
}

TEST(ChooseCompute, AutoFollowsTheMachine) {
  EXPECT_EQ(choose_compute(DeviceChoice::kAuto, PrecisionChoice::kAuto, 0).device.is_cuda(), at::hasCUDA());
}

TEST(ChooseCompute, AbsentGpuIsAnErrorThatSaysWhy) {
  if (at::hasCUDA()) {
    GTEST_SKIP() << "this machine has a GPU";
  }
  try {
    choose_compute(DeviceChoice::kCuda, PrecisionChoice::kAuto, 0);
    ADD_FAILURE() << "accepted";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("run.device"));
    EXPECT_THAT(error.what(), HasSubstr(at::globalContext().hasCUDART() ? "no GPU" : "built without CUDA"));
  }
}

TEST(ChooseCompute, SetsTheNumberOfThreads) {
  const int before = at::get_num_threads();
  const int other = before == 1 ? 2 : 1;
  EXPECT_THAT(choose_compute(DeviceChoice::kCpu, PrecisionChoice::kAuto, other).describe(),
              HasSubstr(fmt::format("{} threads", other)));
  EXPECT_EQ(at::get_num_threads(), other);
  choose_compute(DeviceChoice::kCpu, PrecisionChoice::kAuto, 0);
  EXPECT_NE(at::get_num_threads(), before);
  at::set_num_threads(before);
}

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

}  // namespace
}  // namespace tessera
