#include "ops/cpu/kernels.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "ops/activation_kernels.h"
#include "ops/attention_kernels.h"
#include "ops/cpu/vectors.h"
#include "ops/feed_forward_kernels.h"
#include "ops/linear_kernels.h"
#include "ops/norm_kernels.h"
#include "ops/rotation_kernels.h"

namespace tessera::ops::cpu {
namespace {

TEST(CpuKernels, ServeWhatTheModelAsks) {
  const Kernels& kernels = kernels_of(c10::kCPU);
  const auto attends = [&](std::int64_t tokens, std::int64_t head_size, at::ScalarType dtype) {
    return kernels.attention->serves(dtype, head_size, tokens);
  };
  EXPECT_TRUE(attends(37, 32, at::kFloat));
  EXPECT_TRUE(attends(257, 64, at::kFloat));
  EXPECT_FALSE(attends(257, 24, at::kFloat));
  EXPECT_FALSE(attends(37, 32, at::kDouble));
  EXPECT_FALSE(attends(1370, 64, at::kFloat));
  EXPECT_EQ(attends(257, 64, at::kBFloat16), multiplies_bfloat16());
  EXPECT_FALSE(attends(257, 64, at::kHalf));
  EXPECT_TRUE(kernels.feed_forward->serves(at::kFloat, 128, 512));
  EXPECT_FALSE(kernels.feed_forward->serves(at::kFloat, 768, 3072));
  EXPECT_FALSE(kernels.feed_forward->serves(at::kFloat, 20, 36));
  EXPECT_TRUE(kernels.linear->serves(at::kFloat, 64));
  EXPECT_FALSE(kernels.linear->serves(at::kFloat, 63));
  EXPECT_TRUE(kernels.rms_norm->serves(at::kFloat, 192));
  EXPECT_FALSE(kernels.rms_norm->serves(at::kFloat, 200));
  EXPECT_TRUE(kernels.rotation->serves(at::kDouble));
  for (const auto dtype : {at::kDouble, at::kBFloat16}) {
    EXPECT_FALSE(kernels.feed_forward->serves(dtype, 128, 512));
    EXPECT_FALSE(kernels.linear->serves(dtype, 64));
    EXPECT_FALSE(kernels.rms_norm->serves(dtype, 192));
    EXPECT_FALSE(kernels.swiglu->serves(dtype));
    EXPECT_FALSE(kernels.dropout->serves(dtype));
  }
}

TEST(CpuKernels, AreNoOtherDevices) {
  const Kernels& kernels = kernels_of(c10::kMeta);
  EXPECT_EQ(kernels.attention, nullptr);
  EXPECT_EQ(kernels.dropout, nullptr);
  EXPECT_EQ(kernels.feed_forward, nullptr);
  EXPECT_EQ(kernels.linear, nullptr);
  EXPECT_EQ(kernels.rms_norm, nullptr);
  EXPECT_EQ(kernels.rotation, nullptr);
  EXPECT_EQ(kernels.swiglu, nullptr);
}

}  // namespace
}  // namespace tessera::ops::cpu
