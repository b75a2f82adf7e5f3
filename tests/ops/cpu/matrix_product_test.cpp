#include "ops/cpu/matrix_product.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace tessera::ops::cpu {
namespace {

TEST(MatrixProduct, AddsToRowsAndSumsColumns) {
  at::manual_seed(5);
  const at::Tensor a = at::randn({30, 40}), b = at::randn({40, 21}), begin = at::randn({30, 21});
  at::Tensor c = begin.clone();
  const Result to{c.data_ptr<float>(), 21};
  multiply(30, Left{a.const_data_ptr<float>(), 40, 1}, PackedMatrix(MatrixView(b)), 40, to,
           Addend{c.const_data_ptr<float>(), 21});
  EXPECT_TRUE(at::allclose(c, begin + a.mm(b), 1e-5, 1e-5));
  at::Tensor sums = at::ones({21});
  add_rows(30, 21, begin.const_data_ptr<float>(), 21, sums.data_ptr<float>());
  EXPECT_TRUE(at::allclose(sums, begin.sum(0) + 1, 1e-5, 1e-5));
}

}  // namespace
}  // namespace tessera::ops::cpu
