#include "core/cpu_memory.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/core/peak_bytes.h"

namespace tessera {
namespace {

class CpuMemory : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { keep_freed_memory(); }
};

TEST_F(CpuMemory, TensorsAreAlignedAndCounted) {
  EXPECT_EQ(at::empty({0}).data_ptr(), nullptr);
  const auto [peak, left] = peak_and_left_bytes([] {
    std::vector<at::Tensor> tensors;
    for (std::int64_t size = 1; size < 3000; size += 7) {
      tensors.push_back(at::ones({size}));
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensors.back().data_ptr()) % 64, 0u) << size;
      EXPECT_EQ(tensors.back().sum().item<float>(), static_cast<float>(size));
    }
    tensors.resize(1);
    return tensors;
  });
  EXPECT_GT(peak, 4 * 600'000);
  EXPECT_EQ(left, 4);
}

#if defined(__GLIBC__) && !defined(__SANITIZE_ADDRESS__)
TEST_F(CpuMemory, AskingForMoreThanThereIsSaysHowMuch) {
  try {
    at::empty({std::int64_t{1} << 58}, at::kByte);
    FAIL() << "had 2^58 bytes";
  } catch (const OutOfMemory& error) {
    EXPECT_NE(std::string(error.what()).find("tensor of 274877906945 MiB"), std::string::npos)
        << error.what();
  }
}

/// What a step's tensors leave holds those of the next, also where something small has stayed between them.
TEST_F(CpuMemory, ThatIsFreedIsTakenAgain) {
  constexpr std::int64_t kTensors = 64, kSize = 1 << 20;
  std::vector<std::unique_ptr<char[]>> small;
  const auto step = [&] {
    std::vector<at::Tensor> tensors;
    for (std::int64_t i = 0; i < kTensors; ++i) {
      tensors.push_back(at::empty({kSize}, at::kByte));
      small.push_back(std::make_unique<char[]>(200));
    }
    return mallinfo2().arena;
  };
  const std::size_t first = step();
  for (int again = 0; again < 3; ++again) EXPECT_LT(step(), first + 4 * kSize);
}
#endif

}  // namespace
}  // namespace tessera
