#include "nn/frozen_cast.h"

#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>

#include <latch>
#include <thread>
#include <vector>

#include "core/device.h"
#include "nn/linear.h"
#include "tests/vision/vision_test_support.h"

namespace tessera::nn {
namespace {

const Compute kBf16{.device = c10::kCPU, .dtype = c10::kBFloat16};

/// What each of several threads gives that begin at the same time.
template <typename Call>
std::vector<at::Tensor> at_once(int count, const Call& call) {
  std::vector<at::Tensor> results(static_cast<std::size_t>(count));
  std::latch start(count);
  std::vector<std::thread> threads;
  for (at::Tensor& result : results) {
    threads.emplace_back([&] {
      const at::NoGradGuard no_grad;
      const AutocastScope autocast(kBf16);
      start.arrive_and_wait();
      result = call();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return results;
}

TEST(FrozenCast, IsMadeOnceForAllThreadsThatAskAtOnce) {
  at::set_num_threads(1);
  at::manual_seed(1);
  // Each round begins with a cast that is not made yet, and one that belongs to an older weight.
  for (int round = 0; round < 50; ++round) {
    FrozenCast cast;
    at::Tensor weight = at::randn({64, 64});
    for (const bool again : {false, true}) {
      if (again) weight.mul_(2);
      const at::Tensor expected = weight.to(at::kBFloat16);
      const std::vector<at::Tensor> found = at_once(4, [&] { return cast.of(weight); });
      for (const at::Tensor& one : found) {
        ASSERT_TRUE(at::equal(one, expected)) << round;
        ASSERT_TRUE(one.is_same(found.front())) << "one cast for all";
      }
    }
  }
}

/// With products of one weight and of three, and with adapters.
TEST(FrozenCast, LetsThreadsShareAModelInBfloat16BitForBit) {
  at::set_num_threads(1);
  at::manual_seed(2);
  const at::Tensor pixels = vision::random_pixels();
  for (int round = 0; round < 10; ++round) {
    const auto fresh = [] {
      auto model = vision::random_model();
      model->set_backbone_trainable(false);
      model->eval();
      return model;
    };
    at::Tensor expected;
    {
      const at::NoGradGuard no_grad;
      const AutocastScope autocast(kBf16);
      expected = fresh()->forward(pixels);
    }
    const auto shared = fresh();
    for (const at::Tensor& found : at_once(4, [&] { return shared->forward(pixels); }))
      ASSERT_TRUE(at::equal(found, expected)) << round;
  }
}

}  // namespace
}  // namespace tessera::nn
