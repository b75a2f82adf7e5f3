#include "ops/rotation.h"

#include "tests/ops/differentiated.h"

namespace tessera::ops {
namespace {

/// The formula written out over complex numbers: a pair is multiplied by exp(i · angle).
at::Tensor rotate_by_complex_numbers(const at::Tensor& x, const at::Tensor& angles) {
  const auto halves = x.chunk(2, -1);
  const at::Tensor turned = at::complex(halves[0].contiguous(), halves[1].contiguous()) *
                            at::polar(at::ones_like(angles), angles).unsqueeze(1);
  return at::cat({at::real(turned), at::imag(turned)}, -1);
}

TEST(Rotate, TurnsPairsAlsoInItsGradients) {
  at::manual_seed(3);
  const at::Tensor angles = random({50, 4}, at::kDouble);
  const at::Tensor x = random({3, 50, 6, 8}, at::kDouble);
  const at::Tensor cotangent = random(x.sizes(), at::kDouble);
  const auto ours = [&](const std::vector<at::Tensor>& in) {
    return rotate(in[0], angles.cos(), angles.sin());
  };
  const auto reference = [&](const std::vector<at::Tensor>& in) {
    return rotate_by_complex_numbers(in[0], angles);
  };
  expect_close(ours({x}), reference({x}), 1e-12);
  expect_close(differentiated(ours, {x}, cotangent)[0], differentiated(reference, {x}, cotangent)[0], 1e-12);
}

TEST(Rotate, HalfPrecisionTakesTheOtherPathToTheSameValues) {
  at::manual_seed(4);
  const at::Tensor angles = random({5, 4}, at::kFloat);
  const at::Tensor x = random({2, 5, 3, 8}, at::kFloat).to(at::kBFloat16);
  const at::Tensor found = rotate(x, angles.cos(), angles.sin());
  EXPECT_EQ(found.scalar_type(), at::kBFloat16);
  expect_close(found.to(at::kFloat), rotate(x.to(at::kFloat), angles.cos(), angles.sin()), 0.03);
}

TEST(Rotate, OnlyOnTheCpuAreNarrowProjectionsWidenedForIt) {
  EXPECT_EQ(rotary_dtype(c10::kCPU, at::kBFloat16), at::kFloat);
  EXPECT_EQ(rotary_dtype(c10::kCPU, at::kDouble), at::kDouble);
  EXPECT_EQ(rotary_dtype(c10::kMeta, at::kBFloat16), at::kBFloat16);
}

TEST(Rotate, RefusesShapesThatDontFit) {
  EXPECT_THROW(rotate(at::ones({1, 2, 3, 5}), at::ones({2, 2}), at::ones({2, 2})), c10::Error);
  EXPECT_THROW(rotate(at::ones({1, 2, 3, 4}), at::ones({3, 2}), at::ones({3, 2})), c10::Error);
}

}  // namespace
}  // namespace tessera::ops
