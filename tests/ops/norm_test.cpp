#include "ops/norm.h"

#include "tests/ops/differentiated.h"

namespace tessera::ops {
namespace {

class RmsNormTest : public ::testing::TestWithParam<at::ScalarType> {};

TEST_P(RmsNormTest, AgreesWithLibTorchAlsoInItsGradients) {
  const double tolerance = GetParam() == at::kDouble ? 1e-12 : 2e-4;
  at::manual_seed(1);
  // One row; widths below, at and beside the lanes; enough rows for several threads and runs.
  for (const auto& shape :
       std::vector<std::vector<std::int64_t>>{{1, 3}, {2, 5, 16}, {7, 33}, {9, 200, 40}}) {
    const at::Tensor x = random(shape, GetParam());
    const at::Tensor weight = random({shape.back()}, GetParam());
    const at::Tensor cotangent = random(shape, GetParam());
    const auto ours = [](const std::vector<at::Tensor>& in) { return rms_norm(in[0], in[1], 1e-3); };
    const auto theirs = [](const std::vector<at::Tensor>& in) {
      return at::rms_norm(in[0], in[1].sizes(), in[1], 1e-3);
    };
    expect_close(ours({x, weight}), theirs({x, weight}), tolerance);
    const auto found = differentiated(ours, {x, weight}, cotangent);
    const auto expected = differentiated(theirs, {x, weight}, cotangent);
    expect_close(found[0], expected[0], tolerance);
    expect_close(found[1], expected[1], tolerance * 10);
  }
}

TEST_P(RmsNormTest, TakesInputsOfAnyLayout) {
  at::manual_seed(2);
  const at::Tensor x = random({6, 4, 8}, GetParam()).transpose(0, 1);
  const at::Tensor weight = random({8}, GetParam());
  EXPECT_TRUE(at::equal(rms_norm(x, weight, 1e-5), rms_norm(x.contiguous(), weight, 1e-5)));
}

INSTANTIATE_TEST_SUITE_P(Precisions, RmsNormTest, ::testing::Values(at::kFloat, at::kDouble));

TEST(RmsNorm, RefusesShapesThatDontFit) {
  EXPECT_THROW(rms_norm(at::ones({2, 3}), at::ones({4}), 1e-5), c10::Error);
}

}  // namespace
}  // namespace tessera::ops
