#include "core/collectives.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace tessera {
namespace {

TEST(SingleProcess, GathersItselfWithItsGradient) {
  SingleProcess collectives;
  EXPECT_TRUE(collectives.is_main());
  EXPECT_EQ(collectives.size(), 1);
  const at::Tensor x = at::arange(6, at::kFloat).view({3, 2}).requires_grad_();
  const at::Tensor gathered = collectives.all_gather(x);
  EXPECT_TRUE(at::equal(gathered, x));
  (gathered * gathered).sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), 2 * x));
  EXPECT_TRUE(at::equal(collectives.all_reduce_sum(x.detach()), x));
  collectives.barrier();
}

}  // namespace
}  // namespace tessera
