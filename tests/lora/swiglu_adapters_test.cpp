#include "core/files.h"
#include "lora/adapter_files.h"
#include "lora/peft_files.h"
#include "tests/vision/vision_test_support.h"
#include "vision/dinov2_names.h"

namespace tessera::lora {
namespace {

using vision::Dinov2Config;
using vision::Dinov2Model;
using vision::error_of;
using vision::random_model;
using vision::small_config;

using nlohmann::json;
using testing::HasSubstr;

/// SwiGLU's inner product: one matrix in the old naming, two in the current one and here.
class SwigluAdapters : public testing::Test {
 protected:
  static Dinov2Config gated() {
    Dinov2Config config = small_config();
    config.use_swiglu_ffn = true;
    return config;
  }
  static at::Tensor features(Dinov2Model& model) {
    at::manual_seed(3);
    const at::NoGradGuard no_grad;
    model.eval();
    return model.forward(at::randn({2, 3, 16, 16}));
  }
  TemporaryFolder temporary_;
};

TEST_F(SwigluAdapters, ReadBackInTheCurrentNamingAlsoWithDoraAndBiases) {
  LoraOptions options{.r = 4, .lora_alpha = 8, .lora_dropout = 0.1};
  options.target_modules = {"all-linear"};
  options.use_dora = true;
  options.bias = LoraBias::kLoraOnly;
  const auto model = random_model(gated());
  inject_lora(*model, options, 1);
  const at::NoGradGuard no_grad;
  for (auto& [name, parameter] : adapter_parameters(*model, options))
    parameter.add_(at::randn_like(parameter), 0.2);
  save_adapter(temporary_.path() / "current", *model, options);
  const auto loaded = random_model(gated());
  load_adapter(temporary_.path() / "current", *loaded);
  EXPECT_TRUE(at::equal(features(*loaded), features(*model)));
  const std::string message = error_of([&] {
    save_adapter(temporary_.path() / "legacy", *model, options, {.naming = ModuleNaming::kLegacy});
  });
  EXPECT_THAT(message, AllOf(HasSubstr("gate_proj.lora_A"), HasSubstr("weights_in")));
}

TEST_F(SwigluAdapters, OfTheOneMatrixAreTwoWithOneA) {
  // An old adapter by hand: for the whole inner matrix, of which the update is B·A.
  const auto model = random_model(gated());
  const at::NoGradGuard no_grad;
  TensorMap tensors;
  json config = {{"peft_type", "LORA"}, {"r", 4}, {"lora_alpha", 8}, {"target_modules", {"weights_in"}}};
  const auto expected = random_model(gated());
  for (int i = 0; i < 3; ++i) {
    const std::string place = fmt::format("encoder.layer.{}.mlp.", i);
    const auto linears = expected->named_parameters();
    const at::Tensor gate = linears[place + "gate_proj.weight"], up = linears[place + "up_proj.weight"];
    const at::Tensor a = at::randn({4, gate.size(1)}), b = at::randn({2 * gate.size(0), 4});
    tensors["base_model.model." + place + "weights_in.lora_A.weight"] = a;
    tensors["base_model.model." + place + "weights_in.lora_B.weight"] = b;
    const at::Tensor update = 2 * at::mm(b, a);  // lora_alpha 8, r 4
    gate.add_(update.slice(0, 0, gate.size(0)));
    up.add_(update.slice(0, gate.size(0)));
  }
  const LoraOptions options = load_adapter(config, tensors, *model, "file");
  EXPECT_TRUE(at::allclose(features(*model), features(*expected), 1e-4, 1e-5));
  // Both namings hold it, and say the same.
  const auto write = [&](const char* name, ModuleNaming naming) {
    save_adapter(temporary_.path() / name, *model, options, {.naming = naming});
    return read_adapter(temporary_.path() / name, vision::dinov2_module_names());
  };
  const AdapterFiles legacy = write("legacy", ModuleNaming::kLegacy),
                     current = write("current", ModuleNaming::kCurrent);
  EXPECT_THAT(legacy.options.target_modules.names, testing::ElementsAre("weights_in"));
  EXPECT_THAT(current.options.target_modules.names, testing::ElementsAre("gate_proj", "up_proj"));
  for (const auto& [key, tensor] : tensors) EXPECT_TRUE(at::equal(legacy.tensors.at(key), tensor)) << key;
  const AdapterFiles there = convert_adapter(legacy, ModuleNaming::kCurrent);
  EXPECT_EQ(there.options.target_modules.names, current.options.target_modules.names);
  const AdapterFiles back = convert_adapter(there, ModuleNaming::kLegacy);
  EXPECT_EQ(back.options.target_modules.names, legacy.options.target_modules.names);
  for (const auto& [key, tensor] : tensors) EXPECT_TRUE(at::equal(back.tensors.at(key), tensor)) << key;
}

}  // namespace
}  // namespace tessera::lora
