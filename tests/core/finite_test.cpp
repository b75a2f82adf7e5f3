#include "core/finite.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/core/error_of.h"

namespace tessera {
namespace {

using testing::AllOf;
using testing::HasSubstr;

const at::ScalarType kFloats[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kFloat8_e5m2};

TEST(IsFinite, FindsAnyValueInAnyTypeAndLayout) {
  for (const at::ScalarType dtype : kFloats) {
    const at::Tensor sound = at::linspace(-3, 3, 5 * 7).view({5, 7});
    EXPECT_TRUE(is_finite(sound.to(dtype))) << dtype;
    for (const double wrong : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
      for (const std::int64_t row : {0, 2, 4}) {
        at::Tensor values = sound.clone();
        values[row][6 - row] = wrong;
        EXPECT_FALSE(is_finite(values.to(dtype))) << dtype << " " << wrong << " " << row;
        EXPECT_FALSE(is_finite(values.to(dtype).t())) << dtype << " " << wrong << " " << row;
      }
    }
  }
}

TEST(IsFinite, IsTrueOfNoValuesAndOfIntegersAndOfTheLargest) {
  EXPECT_TRUE(is_finite(at::empty({0, 3})));
  EXPECT_TRUE(is_finite(at::tensor({1, 2, 3})));
  EXPECT_TRUE(is_finite(at::ones({2}, at::kBool)));
  EXPECT_TRUE(is_finite(at::full({3}, std::numeric_limits<float>::max())));
  EXPECT_TRUE(is_finite(at::full({3}, 65504, at::kHalf)));
  EXPECT_TRUE(is_finite(at::tensor(1.5)));
  EXPECT_FALSE(is_finite(at::tensor(std::nan(""))));
}

TEST(CheckWeights, SaysWhereAndHowMany) {
  at::Tensor values = at::zeros({3, 4});
  EXPECT_EQ(what_is_not_finite(values), "");
  values[1][2] = -HUGE_VAL;
  values[2][0] = -std::nan("");
  EXPECT_EQ(what_is_not_finite(values), "2 of 12 values, the first -inf at [1, 2]");
  EXPECT_EQ(what_is_not_finite(values[2]), "1 of 4 values, the first nan at [0]");
  EXPECT_THAT(error_of([&] { check_weights(values.to(at::kBFloat16), "model.bin: tensor 'a.b'"); }),
              AllOf(HasSubstr("model.bin: tensor 'a.b'"), HasSubstr("2 of 12 values")));
  EXPECT_EQ(error_of([&] { check_weights(at::zeros({2}), "x"); }), "no error");
}

TEST(CheckComputed, NamesTheRow) {
  at::Tensor rows = at::zeros({3, 2, 2});
  EXPECT_EQ(error_of([&] { check_computed(rows, "the embedding", {}); }), "no error");
  rows[1][1][0] = HUGE_VAL;
  rows[2][0][0] = std::nan("");
  EXPECT_THAT(error_of([&] {
                check_computed(rows, "the embedding", {"a.jpg", "b.jpg", "c.jpg"});
              }),
              AllOf(HasSubstr("b.jpg: the embedding"), HasSubstr("inf at [1, 0]")));
  EXPECT_THAT(error_of([&] { check_computed(rows, "the embedding", {}); }), HasSubstr("number 1"));
}

}  // namespace
}  // namespace tessera
