#include "nn/frozen_cast.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <vector>

#include "tests/nn/at_once.h"

namespace tessera::nn {
namespace {

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

}  // namespace
}  // namespace tessera::nn
