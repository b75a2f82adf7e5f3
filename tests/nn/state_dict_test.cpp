#include "nn/state_dict.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/core/error_of.h"

namespace tessera::nn {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TensorMap parameters() { return {{"a", at::ones({2, 3})}, {"b", at::ones({4})}, {"c", at::ones({})}}; }

TEST(StateDict, ConvertsFloatTypesAndMakesWhatMayBeAbsentZero) {
  const TensorMap model = parameters();
  load_state_dict(model, {{"a", at::full({2, 3}, 2, at::kBFloat16)}, {"c", at::full({}, 3, at::kDouble)}},
                  {"b"}, "file");
  EXPECT_TRUE(at::equal(model.at("a"), at::full({2, 3}, 2.0F)));
  EXPECT_TRUE(at::equal(model.at("b"), at::zeros({4})));
  EXPECT_EQ(model.at("c").item<float>(), 3);
}

TEST(StateDict, WhatDoesNotFitIsListedAndNothingIsWritten) {
  const TensorMap model = parameters();
  const auto complaint = [&](const TensorMap& tensors) {
    const std::string message = error_of([&] { load_state_dict(model, tensors, {}, "file"); });
    for (const auto& [name, parameter] : model)
      EXPECT_TRUE(at::equal(parameter, at::ones_like(parameter))) << name;
    return message;
  };
  EXPECT_THAT(complaint({{"a", at::zeros({3, 2})}, {"b", at::zeros({4}, at::kLong)}, {"d", at::zeros({1})}}),
              AllOf(HasSubstr("file: "), HasSubstr("missing: c"), HasSubstr("unexpected: d"),
                    HasSubstr("of another shape: a (expected [2, 3], found [3, 2])"),
                    HasSubstr("of another type: b (expected a float type, found Long)")));
  EXPECT_THAT(complaint({{"a", at::zeros({2, 3})}, {"b", at::full({4}, NAN)}, {"c", at::zeros({})}}),
              AllOf(HasSubstr("file"), HasSubstr("'b'")));
}

TEST(StateDict, SaysTheNamesOfTheFile) {
  const std::string message = error_of([] {
    load_state_dict(parameters(), {{"a", at::zeros({1})}}, {}, "file",
                    [](const std::string& name) { return "model." + name; });
  });
  EXPECT_THAT(message, AllOf(HasSubstr("model.a (expected"), HasSubstr("missing: model.b, model.c")));
}

}  // namespace
}  // namespace tessera::nn
