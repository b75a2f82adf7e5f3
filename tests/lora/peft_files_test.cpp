#include "lora/peft_files.h"

#include <cmath>
#include <fstream>

#include "core/files.h"
#include "lora/adapter_files.h"
#include "tests/vision/vision_test_support.h"
#include "vision/dinov2_names.h"

namespace tessera::lora {
namespace {

using vision::Dinov2Model;
using vision::error_of;
using vision::random_model;
using vision::random_pixels;

namespace fs = std::filesystem;
using nlohmann::json;
using testing::HasSubstr;

const LoraOptions kOptions = {
    .r = 4, .lora_alpha = 8, .lora_dropout = 0.1, .target_modules = {"query", "value"}, .use_rslora = false};

std::shared_ptr<Dinov2Model> adapted_model(const LoraOptions& options = kOptions) {
  auto model = random_model();
  inject_lora(*model, options, 1);
  at::manual_seed(11);
  const at::NoGradGuard no_grad;
  for (auto& [name, parameter] : lora_parameters(*model)) {
    parameter.normal_(0, 0.3);
  }
  model->eval();
  return model;
}

json valid_config() {
  return {{"peft_type", "LORA"}, {"r", 4}, {"lora_alpha", 8}, {"target_modules", {"query", "value"}}};
}

class Namings : public testing::TestWithParam<ModuleNaming> {};

TEST_P(Namings, AnAdapterReadsBackAsItWasWritten) {
  const TemporaryFolder temporary;
  for (const std::vector<std::string>& targets :
       {std::vector<std::string>{"query", "value"}, {"all-linear"}, {"dense"}, {"1.mlp.fc1", "key"}}) {
    LoraOptions options = kOptions;
    options.target_modules = targets;
    options.use_rslora = true;
    const auto model = adapted_model(options);
    save_adapter(temporary.path(), *model, options, {.naming = GetParam()});
    const auto loaded = random_model();
    const LoraOptions read = load_adapter(temporary.path(), *loaded);
    EXPECT_EQ(read.r, 4);
    EXPECT_EQ(read.scaling(), 4.0);
    EXPECT_EQ(read.lora_dropout, 0.1);
    const TensorMap expected = lora_parameters(*model);
    const TensorMap found = lora_parameters(*loaded);
    ASSERT_EQ(expected.size(), found.size());
    for (const auto& [name, tensor] : expected) {
      EXPECT_TRUE(at::equal(tensor, found.at(name))) << name;
    }
    loaded->eval();
    const at::Tensor pixels = random_pixels();
    EXPECT_TRUE(at::equal(model->forward(pixels), loaded->forward(pixels)));
  }
}

INSTANTIATE_TEST_SUITE_P(All, Namings, testing::Values(ModuleNaming::kLegacy, ModuleNaming::kCurrent));

TEST(PeftFiles, CarryPeftsNamesAndFields) {
  const TemporaryFolder temporary;
  const auto model = adapted_model();
  const auto written = [&](ModuleNaming naming) {
    save_adapter(temporary.path(), *model, kOptions,
                 {.naming = naming,
                  .base_model_name_or_path = "some/model",
                  .base_model_class = "Dinov2Model",
                  .parent_library = "transformers.models.dinov2.modeling_dinov2"});
    return json::parse(read_file(temporary.path() / "adapter_config.json"));
  };
  const json current = written(ModuleNaming::kCurrent);
  EXPECT_EQ(current["target_modules"], (json{"q_proj", "v_proj"}));
  EXPECT_EQ(current["lora_alpha"].dump(), "8");
  EXPECT_EQ(current["auto_mapping"]["base_model_class"], "Dinov2Model");
  EXPECT_EQ(current["base_model_name_or_path"], "some/model");
  EXPECT_EQ(current["inference_mode"], true);
  const SafetensorsFile file(temporary.path() / "adapter_model.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_TRUE(file.contains("base_model.model.encoder.layer.2.attention.v_proj.lora_B.weight"));
  EXPECT_EQ(file.names().size(), 12);

  EXPECT_EQ(written(ModuleNaming::kLegacy)["target_modules"], (json{"query", "value"}));
  EXPECT_TRUE(SafetensorsFile(temporary.path() / "adapter_model.safetensors")
                  .contains("base_model.model.encoder.layer.0.attention.attention.query.lora_A.weight"));
}

TEST(PeftFiles, TargetsThatASegmentCannotTellApartAreWholePaths) {
  const TemporaryFolder temporary;
  LoraOptions options = kOptions;
  options.target_modules = {"1.mlp.fc1"};
  const auto model = adapted_model(options);
  save_adapter(temporary.path(), *model, options);
  EXPECT_EQ(json::parse(read_file(temporary.path() / "adapter_config.json"))["target_modules"],
            json{"encoder.layer.1.mlp.fc1"});
}

TEST(PeftFiles, ScalingOfRsloraAndHalfPrecision) {
  const auto model = adapted_model();
  TensorMap tensors;
  for (const auto& [name, tensor] : adapter_tensors(*model, kOptions, ModuleNaming::kCurrent)) {
    tensors[name] = tensor.detach().to(at::kBFloat16);
  }
  json config = valid_config();
  config["lora_alpha"] = 4;
  config["use_rslora"] = true;
  config["target_modules"] = {"q_proj", "v_proj"};
  const auto loaded = random_model();
  load_adapter(config, tensors, *loaded, "file");
  for (const NamedLinear& module : adapted_linears(*loaded)) {
    EXPECT_EQ(module.linear->lora_options().scaling, 2.0);
    EXPECT_EQ(module.linear->lora_a().scalar_type(), at::kFloat);
    EXPECT_TRUE(
        at::equal(module.linear->lora_a(),
                  tensors
                      .at(fmt::format("base_model.model.{}.lora_A.weight",
                                      loaded->module_names().renamed(module.name, ModuleNaming::kCurrent)))
                      .to(at::kFloat)));
  }
}

TEST(PeftFiles, AbsentFieldsHavePeftsDefaults) {
  const LoraOptions options =
      parse_adapter_config(json{{"peft_type", "LORA"}, {"target_modules", {"query"}}}, "file");
  EXPECT_EQ(options.r, 8);
  EXPECT_EQ(options.lora_alpha, 8);
  EXPECT_EQ(options.lora_dropout, 0);
  EXPECT_FALSE(options.use_rslora);
  json config = valid_config();
  config["target_modules"] = "all-linear";
  EXPECT_THAT(parse_adapter_config(config, "file").target_modules.names, testing::ElementsAre("all-linear"));
  config["task_type"] = "FEATURE_EXTRACTION";
  config["peft_version"] = "9.9";
  config["a_field_of_the_future"] = nullptr;
  EXPECT_EQ(parse_adapter_config(config, "file").r, 4);
}

TEST(PeftFiles, ModulesOfOtherRanksHaveTheirOwnScales) {
  json config = {{"peft_type", "LORA"}, {"r", 64}, {"target_modules", {"query", "fc1"}}};
  config["rank_pattern"] = {{"fc1", 16}};
  const auto scale = [&](const char* module) {
    return parse_adapter_config(config, "file").scaling_of(module, vision::dinov2_module_names());
  };
  EXPECT_EQ(scale("encoder.layer.0.attention.attention.query"), 8.0 / 64);  // PEFT's 8 where none is given
  EXPECT_EQ(scale("encoder.layer.0.mlp.fc1"), 8.0 / 16);
  config["lora_alpha"] = 64;
  config["alpha_pattern"] = {{"fc1", 16}};
  EXPECT_EQ(scale("encoder.layer.0.attention.attention.query"), 1.0);
  EXPECT_EQ(scale("encoder.layer.0.mlp.fc1"), 1.0);
  config["use_rslora"] = true;
  EXPECT_EQ(scale("encoder.layer.0.mlp.fc1"), 4.0);
}

struct BadField {
  const char* field;
  json value;
};

class BadAdapterConfigs : public testing::TestWithParam<BadField> {};

TEST_P(BadAdapterConfigs, AreErrorsThatNameFileAndField) {
  json config = valid_config();
  config[GetParam().field] = GetParam().value;
  const std::string message = error_of([&] { parse_adapter_config(config, "adapter/adapter_config.json"); });
  EXPECT_THAT(message, HasSubstr("adapter/adapter_config.json"));
  EXPECT_THAT(message, HasSubstr(GetParam().field));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadAdapterConfigs,
    testing::Values(BadField{"peft_type", "IA3"}, BadField{"peft_type", nullptr}, BadField{"use_dora", "yes"},
                    BadField{"bias", "some"}, BadField{"modules_to_save", "classifier"},
                    BadField{"modules_to_save", {1}}, BadField{"rank_pattern", {{"query", "8"}}},
                    BadField{"rank_pattern", {{"query", 0}}}, BadField{"rank_pattern", {1, 2}},
                    BadField{"alpha_pattern", {{"query", nullptr}}}, BadField{"fan_in_fan_out", true},
                    BadField{"lora_bias", true}, BadField{"layers_to_transform", "0"},
                    BadField{"layers_to_transform", {0.5}}, BadField{"layers_pattern", "layer"},
                    BadField{"layers_pattern", {1}}, BadField{"exclude_modules", {1}},
                    BadField{"exclude_modules", ""}, BadField{"target_modules", nullptr},
                    BadField{"target_modules", json::array()}, BadField{"target_modules", json::array({1})},
                    BadField{"init_lora_weights", "pissa_niter_4"}, BadField{"init_lora_weights", "corda"},
                    BadField{"init_lora_weights", 1}, BadField{"layer_replication", {{0, 1}}},
                    BadField{"use_qalora", true}, BadField{"trainable_token_indices", {1}},
                    BadField{"a_field_of_the_future", 1}, BadField{"r", 0}, BadField{"r", "4"},
                    BadField{"r", nullptr}, BadField{"lora_alpha", nullptr}, BadField{"lora_dropout", 1.5},
                    BadField{"use_rslora", "yes"}));

TEST(PeftFiles, EveryFieldThatSaysWhatIsAdaptedIsRead) {
  json config = valid_config();
  config.update({{"target_modules", ".*query"},
                 {"exclude_modules", "encoder\\.layer\\.0\\..*"},
                 {"rank_pattern", {{"query", 3}}},
                 {"alpha_pattern", {{"query", 1.5}}},
                 {"use_dora", true},
                 {"bias", "lora_only"},
                 {"modules_to_save", {"layernorm"}},
                 {"init_lora_weights", "olora"}});
  const LoraOptions options = parse_adapter_config(config, "file");
  EXPECT_EQ(options.target_modules.pattern, ".*query");
  EXPECT_TRUE(options.target_modules.names.empty());
  EXPECT_EQ(options.exclude_modules.pattern, "encoder\\.layer\\.0\\..*");
  EXPECT_EQ(options.rank_of("encoder.layer.1.attention.attention.query", vision::dinov2_module_names()), 3);
  EXPECT_EQ(options.rank_of("encoder.layer.1.attention.attention.value", vision::dinov2_module_names()),
            options.r);
  EXPECT_EQ(options.scaling_of("encoder.layer.1.attention.attention.query", vision::dinov2_module_names()),
            0.5);
  EXPECT_TRUE(options.use_dora);
  EXPECT_EQ(options.bias, LoraBias::kLoraOnly);
  EXPECT_THAT(options.modules_to_save, testing::ElementsAre("layernorm"));
  EXPECT_EQ(options.init, LoraInit::kOlora);
  config = valid_config();
  config["layers_to_transform"] = 1;
  config["layers_pattern"] = "layer";
  EXPECT_THAT(parse_adapter_config(config, "file").layers_to_transform, testing::ElementsAre(1));
  EXPECT_THAT(parse_adapter_config(config, "file").layers_pattern, testing::ElementsAre("layer"));
  config["target_modules"] = "(";
  config.erase("layers_to_transform");
  config.erase("layers_pattern");
  EXPECT_THAT(error_of([&] { load_adapter(config, {}, *random_model(), "file"); }),
              AllOf(HasSubstr("target_modules"), HasSubstr("regular expression")));
}

/// What adapts a part of the modules, each its own way, is written so that the same modules are read back.
TEST(PeftFiles, ARoundTripKeepsWhatEveryModuleComputes) {
  for (const ModuleNaming naming : {ModuleNaming::kLegacy, ModuleNaming::kCurrent}) {
    const LoraOptions options{.r = 3,
                              .lora_alpha = 6,
                              .target_modules = {"all-linear"},
                              .use_rslora = true,
                              .exclude_modules = {"fc1"},
                              .layers_to_transform = {1},
                              .rank_pattern = {{"key", 2}, {"fc2", 1}},
                              .alpha_pattern = {{".*k_proj", 5}},
                              .use_dora = true,
                              .bias = LoraBias::kAll,
                              .modules_to_save = {"layernorm"}};
    const auto model = adapted_model(options);
    for (const auto& [name, parameter] : adapter_parameters(*model, options)) {
      const at::NoGradGuard no_grad;
      at::Tensor writable = parameter;
      writable.add_(at::randn_like(parameter) * 0.1);
    }
    const TemporaryFolder temporary;
    save_adapter(temporary.path(), *model, options, {.naming = naming});
    const auto loaded = random_model();
    const LoraOptions read = load_adapter(temporary.path(), *loaded);
    const TensorMap expected = adapter_parameters(*model, options), found = adapter_parameters(*loaded, read);
    ASSERT_EQ(found.size(), expected.size());
    for (const auto& [name, tensor] : expected) EXPECT_TRUE(at::equal(found.at(name), tensor)) << name;
    const at::Tensor pixels = random_pixels();
    model->eval();
    loaded->eval();
    EXPECT_TRUE(at::allclose(model->forward(pixels), loaded->forward(pixels), 1e-5, 1e-5));
  }
}

TEST(PeftFiles, WhatDoesNotFitIsListed) {
  const auto model = adapted_model();
  TensorMap tensors = adapter_tensors(*model, kOptions, ModuleNaming::kLegacy);
  tensors.erase("base_model.model.encoder.layer.0.attention.attention.query.lora_B.weight");
  tensors["base_model.model.encoder.layer.0.attention.attention.query.lora_magnitude_vector"] =
      at::zeros({16});
  tensors["base_model.model.encoder.layer.1.attention.attention.query.lora_A.weight"] = at::zeros({3, 16});
  const auto loaded = random_model();
  const std::string message = error_of([&] { load_adapter(valid_config(), tensors, *loaded, "folder"); });
  for (const char* part :
       {"folder", "missing: base_model.model.encoder.layer.0.attention.attention.query.lora_B.weight",
        "unexpected: base_model.model.encoder.layer.0.attention.attention.query.lora_magnitude_vector",
        "base_model.model.encoder.layer.1.attention.attention.query.lora_A.weight (expected [4, 16], found "
        "[3, 16])"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  // Under the names that the file has.
  TensorMap current = adapter_tensors(*model, kOptions, ModuleNaming::kCurrent);
  current.erase("base_model.model.encoder.layer.0.attention.q_proj.lora_B.weight");
  json config = valid_config();
  config["target_modules"] = {"q_proj", "v_proj"};
  EXPECT_THAT(error_of([&] { load_adapter(config, current, *random_model(), "folder"); }),
              HasSubstr("missing: base_model.model.encoder.layer.0.attention.q_proj.lora_B.weight"));
}

TEST(PeftFiles, AnAdapterThatIsThereMustBeTheFiles) {
  const auto model = adapted_model();
  const TensorMap tensors = adapter_tensors(*model, kOptions, ModuleNaming::kCurrent);
  const auto message = [&](LoraOptions options) {
    const auto other = adapted_model(options);
    return error_of([&] { load_adapter(valid_config(), tensors, *other, "folder"); });
  };
  LoraOptions options = kOptions;
  options.r = 2;
  EXPECT_THAT(message(options), HasSubstr("r:"));
  options = kOptions;
  options.lora_alpha = 16;
  EXPECT_THAT(message(options), HasSubstr("lora_alpha"));
  options = kOptions;
  options.target_modules = {"query"};
  EXPECT_THAT(message(options),
              HasSubstr("unexpected: base_model.model.encoder.layer.0.attention.v_proj.lora_A.weight"));
  const auto same = adapted_model();
  {
    const at::NoGradGuard no_grad;
    lora_parameters(*same).begin()->second.zero_();
  }
  load_adapter(valid_config(), tensors, *same, "folder");
  EXPECT_GT(lora_parameters(*same).begin()->second.abs().max().item<double>(), 0);
}

/// In a file, lists and expressions mean the names that its model's modules had, and no others.
TEST(PeftFiles, PatternsMeanTheNamesOfTheFilesOwnModel) {
  const std::string prefix = "base_model.model.";
  const auto scaling = [&](const std::string& wrapper, const std::string& module, const json& fields) {
    json config = {{"peft_type", "LORA"}, {"r", 4}, {"lora_alpha", 4}, {"target_modules", {module}}};
    config.update(fields);
    const auto model = random_model();
    TensorMap tensors;
    for (const auto& [key, tensor] :
         adapter_tensors(*adapted_model({.r = 4, .target_modules = {module}}),
                         {.r = 4, .target_modules = {module}}, ModuleNaming::kCurrent))
      tensors[prefix + wrapper + key.substr(prefix.size())] = tensor;
    load_adapter(config, tensors, *model, "file");
    return adapted_linears(*model)[0].linear->lora_options().scaling;
  };
  const auto alpha = [](const char* pattern) { return json{{"alpha_pattern", {{pattern, 64}}}}; };
  EXPECT_EQ(scaling("", "q_proj", alpha("q_proj")), 16);
  EXPECT_EQ(scaling("", "q_proj", alpha("query")), 1);
  EXPECT_EQ(scaling("", "q_proj", alpha("dinov2.encoder.layer.0.attention.q_proj")), 1);
  EXPECT_EQ(scaling("dinov2.", "q_proj", alpha("dinov2.encoder.layer.0.attention.q_proj")), 16);
  EXPECT_EQ(scaling("dinov2.", "q_proj", alpha("^encoder.layer.0.attention.q_proj")), 1);
  // What means nothing there, as the other naming's words, is passed over.
  EXPECT_EQ(scaling("", "q_proj", {{"exclude_modules", {"query"}}}), 1);
  EXPECT_EQ(scaling("", "q_proj", {{"target_modules", {"q_proj", "value", "qkv"}}}), 1);
  EXPECT_EQ(scaling("", "q_proj", {{"target_modules", ".*(q_proj|value)"}}), 1);
  // Tensors that somebody has renamed, and not their configuration.
  EXPECT_EQ(scaling("", "q_proj", {{"target_modules", {"query"}}, {"alpha_pattern", {{"query", 64}}}}), 16);
  EXPECT_EQ(scaling("dinov2.", "fc1",
                    {{"target_modules", {"dinov2.encoder.layer.0.mlp.fc1", "fc1", "classifier"}}}),
            1);
}

/// With bias "all", PEFT writes the biases of modules_to_save twice more.
TEST(PeftFiles, BiasesOfModulesToSaveMayComeThreeTimes) {
  const LoraOptions options{
      .r = 2, .target_modules = {"query"}, .bias = LoraBias::kAll, .modules_to_save = {"layernorm"}};
  const auto model = adapted_model(options);
  TensorMap tensors = adapter_tensors(*model, options, ModuleNaming::kCurrent);
  const at::Tensor bias = tensors.at("base_model.model.layernorm.bias");
  tensors["base_model.model.layernorm.modules_to_save.bias"] = bias;
  tensors["base_model.model.layernorm.original_module.bias"] = at::zeros_like(bias);
  const json config = {{"peft_type", "LORA"},          {"r", 2},        {"lora_alpha", 8},
                       {"target_modules", {"q_proj"}}, {"bias", "all"}, {"modules_to_save", {"layernorm"}}};
  const auto loaded = random_model();
  load_adapter(config, tensors, *loaded, "file");
  EXPECT_TRUE(at::equal(
      adapter_tensors(*loaded, options, ModuleNaming::kCurrent).at("base_model.model.layernorm.bias"), bias));
}

TEST(PeftFiles, ModulesInsideOneAnotherAreNotSavedWhole) {
  EXPECT_THAT(error_of([&] {
                inject_lora(*random_model(), {.target_modules = {"query"}, .modules_to_save = {"embeddings"}},
                            1);
              }),
              HasSubstr("\"embeddings\" names embeddings.patch_embeddings"));
}

TEST(PeftFiles, ATargetThatTheModelLacksIsNamed) {
  json config = valid_config();
  config["target_modules"] = {"query", "c_attn"};
  EXPECT_THAT(error_of([&] { load_adapter(config, {}, *random_model(), "folder"); }), HasSubstr("c_attn"));
}

TEST(PeftFiles, PickledTensorsAreReadWhereThereAreNoOthers) {
  const TemporaryFolder temporary;
  EXPECT_EQ(adapter_weights_file(temporary.path()).filename(), "adapter_model.safetensors");
  std::ofstream(temporary.path() / "adapter_model.bin") << "x";
  EXPECT_EQ(adapter_weights_file(temporary.path()).filename(), "adapter_model.bin");
  std::ofstream(temporary.path() / "adapter_model.safetensors") << "x";
  EXPECT_EQ(adapter_weights_file(temporary.path()).filename(), "adapter_model.safetensors");
}

TEST(PeftFiles, ConfigurationsMayHoldNaNWhereNobodyReads) {
  const TemporaryFolder temporary;
  const auto model = adapted_model();
  save_adapter(temporary.path(), *model, kOptions);
  const auto with = [&](const std::string& fields) {
    json config = valid_config();
    config.erase("lora_alpha");
    write_file_atomically(temporary.path() / "adapter_config.json",
                          "{" + fields + "," + config.dump().substr(1));
    return read_adapter(temporary.path(), vision::dinov2_module_names());
  };
  const AdapterFiles files = with(
      R"("lora_alpha": 8, "eva_config": {"rho": 2.0, "tau": NaN}, "kasa_config": NaN, "revision": Infinity)");
  EXPECT_EQ(files.options.lora_alpha, 8);
  const auto loaded = random_model();
  load_adapter(files, *loaded);
  // What is made of it is JSON for everybody.
  write_adapter(temporary.path() / "again", convert_adapter(files, ModuleNaming::kLegacy));
  EXPECT_TRUE(
      json::parse(read_file(temporary.path() / "again/adapter_config.json"))["kasa_config"].is_null());
  EXPECT_THAT(error_of([&] { with("\"lora_alpha\": NaN"); }),
              HasSubstr("lora_alpha: expected a number, found NaN"));
  EXPECT_THAT(error_of([&] { with("\"lora_alpha\": -Infinity"); }), HasSubstr("found -Infinity"));
  EXPECT_THAT(error_of([&] { with(R"("lora_alpha": 8, "alpha_pattern": {"query": NaN})"); }),
              HasSubstr("alpha_pattern: query: expected a number, found NaN"));
  EXPECT_THAT(error_of([&] { with(R"("lora_alpha": 8, "a_new_field": Infinity)"); }),
              HasSubstr("a_new_field: not supported, found Infinity"));
}

TEST(PeftFiles, ValuesThatAreNotFiniteAreNamed) {
  const TemporaryFolder temporary;
  const auto model = adapted_model();
  save_adapter(temporary.path(), *model, kOptions);
  const fs::path file = temporary.path() / "adapter_model.safetensors";
  TensorMap tensors;
  for (const auto& [name, tensor] : SafetensorsFile(file).tensors()) tensors[name] = tensor.clone();
  const std::string name = "base_model.model.encoder.layer.2.attention.v_proj.lora_B.weight";
  tensors.at(name)[0][1] = std::nan("");
  write_safetensors(file, tensors);
  // Also for what is made of adapters alone.
  for (const std::string& error :
       {error_of([&] { load_adapter(temporary.path(), *random_model()); }),
        error_of([&] { read_adapter(temporary.path(), vision::dinov2_module_names()); })})
    EXPECT_THAT(error, testing::AllOf(HasSubstr(file.string()), HasSubstr("'" + name + "'"),
                                      HasSubstr("nan at [0, 1]")));
}

TEST(PeftFiles, MissingAndBrokenFilesAreNamed) {
  const TemporaryFolder temporary;
  const auto model = random_model();
  const auto message = [&] { return error_of([&] { load_adapter(temporary.path(), *model); }); };
  EXPECT_THAT(message(), HasSubstr("adapter_config.json"));
  std::ofstream(temporary.path() / "adapter_config.json") << "{";
  EXPECT_THAT(message(), HasSubstr("adapter_model.safetensors"));
  std::ofstream(temporary.path() / "adapter_model.safetensors") << "x";
  EXPECT_THAT(message(), HasSubstr("not valid JSON"));
  std::ofstream(temporary.path() / "adapter_config.json") << valid_config().dump();
  EXPECT_THAT(message(), HasSubstr("adapter_model.safetensors"));
}

TEST(PeftFiles, StandInsAreNamed) {
  const TemporaryFolder temporary;
  const auto model = adapted_model();
  const auto message = [&] { return error_of([&] { load_adapter(temporary.path(), *random_model()); }); };
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    for (const auto& [content, says] :
         {std::pair("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 595\n",
                    "git lfs pull"),
          std::pair("<!DOCTYPE html><html></html>", "a web page")}) {
      save_adapter(temporary.path(), *model, kOptions);
      write_file_atomically(temporary.path() / name, content);
      EXPECT_THAT(message(), testing::AllOf(HasSubstr(name), HasSubstr(says)));
    }
  }
}

TEST(PeftFiles, AdaptersOfModelsThatWereWrappedForTrainingLoad) {
  const TemporaryFolder temporary;
  const auto model = adapted_model();
  save_adapter(temporary.path(), *model, kOptions);
  const std::string config = read_file(temporary.path() / "adapter_config.json");
  const TensorMap tensors = adapter_tensors(*model, kOptions, ModuleNaming::kCurrent);
  const at::Tensor pixels = random_pixels(), expected = model->forward(pixels);
  for (const char* before : {"module.", "_orig_mod.", "module._orig_mod."}) {
    for (const bool inside : {false, true}) {
      TensorMap wrapped;
      for (const auto& [name, tensor] : tensors) {
        wrapped[inside ? kPeftPrefix + before + without_peft_prefix(name) : before + name] = tensor;
      }
      write_safetensors(temporary.path() / "adapter_model.safetensors", wrapped);
      const auto loaded = random_model();
      load_adapter(temporary.path(), *loaded);
      loaded->eval();
      EXPECT_TRUE(at::equal(loaded->forward(pixels), expected)) << before << inside;
    }
  }
}

}  // namespace
}  // namespace tessera::lora
