#include "core/device.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace tessera
