#include "lora/adapter_set.h"

#include "tests/vision/vision_test_support.h"

namespace tessera::lora {
namespace {

using vision::Dinov2Model;
using vision::error_of;
using vision::random_model;
using vision::random_pixels;

using testing::ElementsAre;
using testing::HasSubstr;

const LoraOptions kQueries{.r = 2, .lora_alpha = 4, .target_modules = {"query", "fc1"}};
const LoraOptions kValues{.r = 3, .lora_alpha = 3, .target_modules = {"value", "fc1"}};

TensorMap values_of(torch::nn::Module& module) {
  TensorMap values;
  for (const auto& item : module.named_parameters()) values[item.key()] = item.value().detach().clone();
  return values;
}

void expect_equal(const TensorMap& found, const TensorMap& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, tensor] : expected) EXPECT_TRUE(at::equal(found.at(name), tensor)) << name;
}

/// A model in evaluation mode with a set of adapters that do something.
class AdapterSetTest : public testing::Test {
 protected:
  AdapterSetTest() { model->eval(); }

  void add(const std::string& name, const LoraOptions& options) {
    adapters.add(name, options, std::hash<std::string>()(name));
    const at::NoGradGuard no_grad;
    for (const auto& [parameter, tensor] : adapters.parameters(name)) {
      at::Tensor writable = tensor;
      writable.add_(at::randn_like(tensor), 0.2);
    }
  }
  at::Tensor features(const std::string& name) {
    const at::NoGradGuard no_grad;
    adapters.use(name);
    return model->forward(pixels);
  }
  double difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

  std::shared_ptr<Dinov2Model> model = random_model();
  const TensorMap base = values_of(*model);
  const at::Tensor pixels = random_pixels();
  AdapterSet adapters{*model};
};

TEST_F(AdapterSetTest, SwitchesWithoutCopyingAndBringsTheBaseModelBack) {
  add("queries", kQueries);
  add("values", kValues);
  EXPECT_THAT(adapters.names(), ElementsAre("queries", "values"));
  const at::Tensor plain = features(""), of_queries = features("queries"), of_values = features("values");
  EXPECT_GT(difference(of_queries, plain), 0.01);
  EXPECT_GT(difference(of_values, of_queries), 0.01);
  const void* place = adapters.parameters("queries").begin()->second.const_data_ptr();
  for (int round = 0; round < 3; ++round) {
    EXPECT_TRUE(at::equal(features("queries"), of_queries));
    EXPECT_TRUE(at::equal(features("values"), of_values));
    EXPECT_TRUE(at::equal(features(""), plain));
  }
  EXPECT_EQ(adapters.parameters("queries").begin()->second.const_data_ptr(), place);
  expect_equal(values_of(*model), base);
}

TEST_F(AdapterSetTest, WhatAnAdapterBringsOfItsOwnForTheBaseModelGoesWithIt) {
  LoraOptions options = kQueries;
  options.bias = LoraBias::kAll;
  options.modules_to_save = {"layernorm"};
  options.use_dora = true;
  add("own", options);
  for (const LoraInit init : {LoraInit::kPissa, LoraInit::kOlora}) {
    options = kValues;
    options.init = init;
    add(init_word(init), options);
  }
  const at::Tensor plain = features(""), own = features("own"), pissa = features("pissa");
  EXPECT_GT(difference(own, plain), 0.01);
  features("olora");
  EXPECT_TRUE(at::equal(features("own"), own));
  EXPECT_TRUE(at::equal(features("pissa"), pissa));
  EXPECT_TRUE(at::equal(features(""), plain));
  expect_equal(values_of(*model), base);
}

TEST_F(AdapterSetTest, MergingChangesNothingAndUnmergingBringsTheWeightsBackBitForBit) {
  add("values", kValues);
  LoraOptions dora = kQueries;
  dora.use_dora = true;
  add("dora", dora);
  for (const char* name : {"values", "dora"}) {
    const at::Tensor unmerged = features(name);
    adapters.merge();
    EXPECT_TRUE(adapters.is_merged());
    EXPECT_LT(difference(features(name), unmerged), 1e-5 * unmerged.abs().max().item<double>());
    EXPECT_THAT(error_of([&] { adapters.use(""); }), HasSubstr("merged"));
    adapters.unmerge();
    EXPECT_TRUE(at::equal(features(name), unmerged));
    adapters.use("");
    expect_equal(values_of(*model), base);
  }
}

TEST_F(AdapterSetTest, TheSetLeavesTheModelAsItWasAlsoWhereAnAdapterIsMerged) {
  {
    AdapterSet others(*model);
    others.add("merged", kQueries, 1);
    others.use("merged");
    others.merge();
  }
  expect_equal(values_of(*model), base);
}

TEST_F(AdapterSetTest, FilesComeAndGoWithoutTouchingWhatIsInUse) {
  const TemporaryFolder temporary;
  LoraOptions options = kQueries;
  options.use_dora = true;
  options.bias = LoraBias::kLoraOnly;
  add("first", options);
  add("second", kValues);
  const at::Tensor first = features("first"), second = features("second");
  adapters.save("first", temporary.path() / "first");
  EXPECT_EQ(adapters.in_use(), "second");
  adapters.load("again", temporary.path() / "first");
  EXPECT_EQ(adapters.in_use(), "second");
  EXPECT_TRUE(at::equal(features("again"), first));
  EXPECT_TRUE(at::equal(features("second"), second));
  adapters.remove("second");
  EXPECT_EQ(adapters.in_use(), "");
  expect_equal(values_of(*model), base);

  // A file that doesn't fit adds nothing.
  AdapterFiles broken = read_adapter(temporary.path() / "first", model->module_names());
  broken.tensors.erase(broken.tensors.begin());
  EXPECT_THAT(error_of([&] { adapters.load("broken", broken); }), HasSubstr("missing"));
  EXPECT_FALSE(adapters.contains("broken"));
  expect_equal(values_of(*model), base);
}

TEST_F(AdapterSetTest, ErrorsNameTheAdapter) {
  add("queries", kQueries);
  EXPECT_THAT(error_of([&] { adapters.use("birds"); }), AllOf(HasSubstr("birds"), HasSubstr("queries")));
  EXPECT_THAT(error_of([&] { add("queries", kValues); }), HasSubstr("queries"));
  EXPECT_THAT(error_of([&] { adapters.add("x", {.target_modules = {"nothing"}}, 0); }), HasSubstr("nothing"));
  EXPECT_FALSE(adapters.contains("x"));
  EXPECT_THAT(error_of([&] { adapters.merge(); }), HasSubstr("no adapter in use"));
}

TEST_F(AdapterSetTest, AnAdapterInUseTrainsAndAnotherDoesNot) {
  add("one", kQueries);
  add("other", kValues);
  adapters.use("one");
  model->forward(pixels).square().mean().backward();
  for (const auto& [name, parameter] : adapters.parameters("one")) {
    EXPECT_GT(parameter.grad().abs().max().item<double>(), 0) << name;
  }
  for (const auto& [name, parameter] : adapters.parameters("other")) EXPECT_FALSE(parameter.grad().defined());
}

}  // namespace
}  // namespace tessera::lora
