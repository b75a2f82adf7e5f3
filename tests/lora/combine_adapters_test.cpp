#include "lora/combine_adapters.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "lora/adapter_files.h"
#include "tests/core/error_of.h"

namespace tessera::lora {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using Json = nlohmann::ordered_json;

const ModuleNames kNames;  // paths as they are

/// Files of an adapter of modules of 6 inputs and 5 outputs, with matrices that do something.
AdapterFiles adapter(const std::string& source, const std::vector<std::string>& modules, std::int64_t r,
                     double alpha, const Json& more = Json::object()) {
  Json config = {{"peft_type", "LORA"}, {"r", r}, {"lora_alpha", alpha}, {"target_modules", modules}};
  config.update(more);
  TensorMap tensors;
  for (const std::string& module : modules) {
    tensors[kPeftPrefix + module + ".lora_A.weight"] = at::randn({r, 6});
    tensors[kPeftPrefix + module + ".lora_B.weight"] = at::randn({5, r});
  }
  return AdapterFiles::of(std::move(config), std::move(tensors), source, kNames);
}

/// ΔW of a module; zeros where the adapter doesn't have it.
at::Tensor update(const AdapterFiles& files, const std::string& module) {
  for (const AdaptedModule& one : adapted_modules(files)) {
    if (one.name == module) return weight_update(files, one);
  }
  return at::zeros({5, 6}, at::kDouble);
}

double difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

class CombineAdapters : public testing::Test {
 protected:
  CombineAdapters() { at::manual_seed(1); }

  const std::vector<std::string> modules{"layers.0.query", "layers.0.up", "layers.1.value"};
  const AdapterFiles one = adapter("one", {modules[0], modules[1]}, 2, 4);
  const AdapterFiles other = adapter("other", {modules[0], modules[1]}, 2, 1);
  const AdapterFiles wide = adapter("wide", {modules[1], modules[2]}, 3, 3);
};

TEST_F(CombineAdapters, StackedAndApproximatedTheyAddWhatTheyAdd) {
  const std::vector<WeightedAdapter> all = {{one, 0.5}, {other, -2}, {wide, 1}};
  const AdapterFiles cat = combine_adapters(all, AdapterCombination::kCat),
                     svd = combine_adapters(all, AdapterCombination::kSvd, 5);
  for (const std::string& module : modules) {
    const at::Tensor sum = 0.5 * update(one, module) - 2 * update(other, module) + update(wide, module);
    EXPECT_LT(difference(update(cat, module), sum), 1e-5) << module;
    EXPECT_LT(difference(update(svd, module), sum), 1e-5) << module;
  }
  EXPECT_EQ(cat.options.r, 2 + 2 + 3);
  EXPECT_EQ(combine_adapters(all, AdapterCombination::kSvd).options.r, 3);
}

/// PEFT's formula, with a negative weight.
TEST_F(CombineAdapters, LinearAddsTheMatrices) {
  const AdapterFiles linear = combine_adapters({{one, 0.5}, {other, -2}}, AdapterCombination::kLinear);
  const double of_one = std::sqrt(0.5 * 2), of_other = std::sqrt(2 * 0.5);
  const auto matrix = [&](const AdapterFiles& files, const char* which) {
    return files.tensors.at(kPeftPrefix + modules[1] + which);
  };
  const char *a = ".lora_A.weight", *b = ".lora_B.weight";
  EXPECT_LT(difference(matrix(linear, a), of_one * matrix(one, a) - of_other * matrix(other, a)), 1e-6);
  EXPECT_LT(difference(matrix(linear, b), of_one * matrix(one, b) + of_other * matrix(other, b)), 1e-6);
  EXPECT_THAT(error_of([&] {
                combine_adapters({{one, 1}, {wide, 1}}, AdapterCombination::kLinear);
              }),
              AllOf(HasSubstr(modules[1]), HasSubstr("ranks 2 and 3")));
}

TEST_F(CombineAdapters, EveryModuleKeepsItsRankWhereTheyDiffer) {
  const AdapterFiles few = adapter("few", {modules[2]}, 1, 1);
  const AdapterFiles linear = combine_adapters({{one, 1}, {few, 1}}, AdapterCombination::kLinear);
  for (const AdaptedModule& module : adapted_modules(linear)) {
    EXPECT_EQ(module.r, module.name == modules[2] ? 1 : 2) << module.name;
    EXPECT_EQ(module.scaling, 1) << module.name;
  }
}

TEST_F(CombineAdapters, WhatCannotBeAddedIsRefusedByName) {
  const auto refused = [&](const AdapterFiles& files, double weight = 1, std::int64_t rank = 0) {
    return error_of([&] { combine_adapters({{one, 1}, {files, weight}}, AdapterCombination::kSvd, rank); });
  };
  EXPECT_THAT(refused(adapter("dora", {modules[0]}, 2, 2, {{"use_dora", true}})),
              AllOf(HasSubstr("dora"), HasSubstr("use_dora")));
  EXPECT_THAT(refused(adapter("biased", {modules[0]}, 2, 2, {{"bias", "all"}})),
              AllOf(HasSubstr("biased"), HasSubstr("of the base model of its own")));
  EXPECT_THAT(refused(other, NAN), AllOf(HasSubstr("other"), HasSubstr("weight")));
  EXPECT_THAT(refused(other, 1, 6), AllOf(HasSubstr("rank 6"), HasSubstr(modules[0])));
  AdapterFiles sized = adapter("sized", {modules[0]}, 2, 2);
  sized.tensors[kPeftPrefix + modules[0] + ".lora_A.weight"] = at::randn({2, 7});
  EXPECT_THAT(refused(sized),
              AllOf(HasSubstr("sized"), HasSubstr("expected 6 inputs"), HasSubstr("found 7")));
  AdapterFiles infinite = adapter("infinite", {modules[0]}, 2, 2);
  infinite.tensors.begin()->second.fill_(INFINITY);
  EXPECT_THAT(refused(infinite), AllOf(HasSubstr("infinite"), HasSubstr("not finite")));
}

}  // namespace
}  // namespace tessera::lora
