#include "vision/encoder_files.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "lora/lora.h"
#include "tests/vision/vision_test_support.h"
#include "vision/dinov2_names.h"

namespace tessera::vision {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

TensorMap copies(const Dinov2Model& model) {
  TensorMap tensors;
  for (const auto& [name, tensor] : model.file_tensors()) {
    tensors[name] = tensor.detach().clone();
  }
  return tensors;
}

void expect_same(const Dinov2Model& left, const Dinov2Model& right) {
  const TensorMap expected = left.file_tensors();
  const TensorMap found = right.file_tensors();
  ASSERT_EQ(expected.size(), found.size());
  for (const auto& [name, tensor] : expected) {
    EXPECT_TRUE(at::equal(tensor, found.at(name))) << name;
  }
}

/// The model with transformers 5's module names, as a wrapper class would save it.
TensorMap current_names(const Dinov2Model& model, const std::string& prefix) {
  TensorMap tensors;
  for (const auto& [name, tensor] : copies(model)) {
    tensors[prefix + dinov2_module_names().renamed(name, lora::ModuleNaming::kCurrent)] = tensor;
  }
  return tensors;
}

TEST(Dinov2Weights, AFolderReadsBackAsItWasWritten) {
  const TemporaryFolder temporary;
  Dinov2Config config = small_config();
  config.with_registers = true;
  config.num_register_tokens = 2;
  const auto model = random_model(config);
  const fs::path folder = temporary.path() / "model";
  save_encoder(folder, *model);
  const auto loaded = load_dinov2(folder);
  expect_same(*model, *loaded);
  EXPECT_EQ(loaded->config().to_json(), config.to_json());
  EXPECT_EQ(loaded->interpolation(), PositionInterpolation::kSizeAntialias);
  EXPECT_EQ(std::distance(fs::directory_iterator(temporary.path()), {}), 1) << "nothing temporary may stay";
  // Again, over the old one and with an adapter, which is not part of the backbone.
  const auto other = random_model(config, 2);
  lora::inject_lora(*other, {.r = 2, .target_modules = {"query"}}, 0);
  save_encoder(folder, *other);
  expect_same(*other, *load_dinov2(folder));
  expect_same(*other, *load_dinov2(folder / "model.safetensors"));
}

TEST(Dinov2Weights, BothNamingsAndTheWrappersPrefixLoad) {
  const auto model = random_model();
  for (const char* prefix : {"", "dinov2.", "dinov2_with_registers."}) {
    TensorMap tensors = current_names(*model, prefix);
    if (*prefix != '\0') {
      tensors["classifier.weight"] = at::zeros({10, 32});
    }
    Dinov2Model loaded(small_config());
    loaded.load_file_tensors(tensors, "file");
    expect_same(*model, loaded);
  }
}

TEST(Dinov2Weights, SwigluGatesAreJoined) {
  Dinov2Config config = small_config();
  config.use_swiglu_ffn = true;
  const auto model = random_model(config);
  TensorMap tensors = current_names(*model, "");
  for (int i = 0; i < 3; ++i) {
    const std::string mlp = fmt::format("encoder.layer.{}.mlp.", i);
    for (const char* kind : {"weight", "bias"}) {
      const auto halves = tensors.at(mlp + "weights_in." + kind).chunk(2, 0);
      tensors.erase(mlp + "weights_in." + kind);
      tensors[mlp + "gate_proj." + kind] = halves[0];
      tensors[mlp + "up_proj." + kind] = halves[1];
    }
  }
  Dinov2Model loaded(config);
  loaded.load_file_tensors(tensors, "file");
  expect_same(*model, loaded);
  tensors.erase("encoder.layer.1.mlp.up_proj.bias");
  EXPECT_THAT(error_of([&] { loaded.load_file_tensors(tensors, "file"); }),
              HasSubstr("encoder.layer.1.mlp.up_proj.bias"));
}

TEST(Dinov2Weights, HalfPrecisionBecomesFloat) {
  const auto model = random_model();
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf, at::kDouble}) {
    TensorMap tensors;
    for (const auto& [name, tensor] : copies(*model)) {
      tensors[name] = tensor.to(dtype);
    }
    Dinov2Model loaded(small_config());
    loaded.load_file_tensors(tensors, "file");
    for (const auto& [name, tensor] : loaded.file_tensors()) {
      EXPECT_EQ(tensor.scalar_type(), at::kFloat);
      EXPECT_TRUE(at::equal(tensor, tensors[name].to(at::kFloat))) << name;
    }
  }
}

TEST(Dinov2Weights, ShardsAreReadByTheirIndex) {
  const TemporaryFolder temporary;
  const auto model = random_model();
  std::array<TensorMap, 2> shards;
  json index = {{"weight_map", json::object()}};
  std::size_t next = 0;
  for (const auto& [name, tensor] : copies(*model)) {
    shards.at(next % 2)[name] = tensor;
    index["weight_map"][name] = fmt::format("part-{}.safetensors", next++ % 2);
  }
  write_safetensors(temporary.path() / "part-0.safetensors", shards[0]);
  write_safetensors(temporary.path() / "part-1.safetensors", shards[1]);
  write_file_atomically(temporary.path() / "config.json", small_config().to_json().dump());
  const fs::path index_path = temporary.path() / "model.safetensors.index.json";
  write_file_atomically(index_path, index.dump());
  expect_same(*model, *load_dinov2(temporary.path()));

  const auto message_with = [&](const json& broken) {
    write_file_atomically(index_path, broken.dump());
    return error_of([&] { load_dinov2(temporary.path()); });
  };
  json outside = index;
  outside["weight_map"]["layernorm.bias"] = "../part-0.safetensors";
  EXPECT_THAT(message_with(outside), HasSubstr("layernorm.bias"));
  json absent = index;
  absent["weight_map"]["layernorm.gain"] = "part-0.safetensors";
  EXPECT_THAT(message_with(absent), HasSubstr("layernorm.gain"));
  EXPECT_THAT(message_with(json::array()), HasSubstr("weight_map"));
}

TEST(Dinov2Weights, WhatDoesNotFitIsListedAndNothingIsWritten) {
  const auto source = random_model();
  const auto model = random_model(small_config(), 2);
  const TensorMap before = copies(*model);
  TensorMap tensors = copies(*source);
  tensors.erase("layernorm.bias");
  tensors["head.weight"] = at::zeros({2, 2});
  tensors["embeddings.position_embeddings"] = at::zeros({1, 5, 16});
  tensors["layernorm.weight"] = at::zeros({16}, at::kLong);
  const std::string message = error_of([&] { model->load_file_tensors(tensors, "some/model.safetensors"); });
  for (const char* part : {"some/model.safetensors", "missing: layernorm.bias", "unexpected: head.weight",
                           "embeddings.position_embeddings (expected [1, 17, 16], found [1, 5, 16])",
                           "layernorm.weight (expected a float type, found Long)"}) {
    EXPECT_THAT(message, HasSubstr(part));
  }
  for (const auto& [name, tensor] : model->file_tensors()) {
    EXPECT_TRUE(at::equal(tensor, before.at(name))) << name;
  }
}

TEST(Dinov2Weights, TheMaskTokenMayBeAbsentAndAClassifierNeedsItsWrapper) {
  const auto model = random_model();
  TensorMap tensors = copies(*model);
  tensors.erase("embeddings.mask_token");
  Dinov2Model loaded(small_config());
  loaded.load_file_tensors(tensors, "file");
  EXPECT_EQ(loaded.file_tensors().at("embeddings.mask_token").abs().max().item<double>(), 0);
  tensors["classifier.weight"] = at::zeros({2, 2});
  EXPECT_THAT(error_of([&] { loaded.load_file_tensors(tensors, "file"); }), HasSubstr("classifier.weight"));
  tensors.erase("classifier.weight");
  tensors["dinov2.layernorm.bias"] = at::zeros({16});
  EXPECT_THAT(error_of([&] { loaded.load_file_tensors(tensors, "file"); }), HasSubstr("two names"));
}

TEST(Dinov2Weights, ValuesThatAreNotFiniteAreNamedWithTheirFileAndPlace) {
  const TemporaryFolder temporary;
  const fs::path folder = temporary.path() / "model";
  const auto model = random_model();
  save_encoder(folder, *model);
  const std::string name = "encoder.layer.1.mlp.fc2.weight";
  for (const double wrong : {std::nan(""), -HUGE_VAL}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
      TensorMap tensors = copies(*model);
      tensors[name][3][5] = wrong;
      tensors[name] = tensors[name].to(dtype);
      write_safetensors(folder / "model.safetensors", tensors);
      EXPECT_THAT(error_of([&] { load_dinov2(folder); }),
                  AllOf(HasSubstr((folder / "model.safetensors").string()), HasSubstr("'" + name + "'"),
                        HasSubstr(fmt::format("1 of 1024 values, the first {} at [3, 5]", wrong))))
          << dtype;
    }
  }
  // None of them was taken.
  TensorMap tensors = copies(*model);
  tensors["layernorm.weight"][0] = std::nan("");
  const auto other = random_model(small_config(), 2), same = random_model(small_config(), 2);
  error_of([&] { other->load_file_tensors(tensors, "file"); });
  expect_same(*other, *same);
}

TEST(Dinov2Weights, WhatATypeCanNotHoldIsNotWritten) {
  const TemporaryFolder temporary;
  const fs::path folder = temporary.path() / "model";
  const auto model = random_model();
  {
    const at::NoGradGuard no_grad;
    model->file_tensors().at("layernorm.bias")[2] = 70000;
  }
  EXPECT_THAT(error_of([&] { save_encoder(folder, *model, {}, at::kHalf); }),
              AllOf(HasSubstr("'layernorm.bias'"), HasSubstr("Half"), HasSubstr("inf at [2]")));
  EXPECT_TRUE(fs::is_empty(temporary.path()));
  save_encoder(folder, *model, {}, at::kBFloat16);
  EXPECT_TRUE(fs::exists(folder / "config.json"));
}

TEST(Dinov2Weights, ConfigurationsMayHoldNaNWhereNobodyReads) {
  const TemporaryFolder temporary;
  const fs::path folder = temporary.path() / "model";
  save_encoder(folder, *random_model());
  const std::string config = read_file(folder / "config.json");
  const auto with = [&](const std::string& field) {
    write_file_atomically(folder / "config.json", "{" + field + "," + config.substr(1));
  };
  with("\"eval_loss\": NaN, \"best\": [-Infinity]");
  expect_same(*random_model(), *load_dinov2(folder));
  std::string wrong = config;
  const std::size_t at = wrong.find("\"layer_norm_eps\":");
  wrong.replace(at, wrong.find(',', at) - at, "\"layer_norm_eps\": NaN");
  write_file_atomically(folder / "config.json", wrong);
  EXPECT_THAT(error_of([&] { load_dinov2(folder); }),
              HasSubstr("config.json: layer_norm_eps: expected a number, found NaN"));
}

TEST(Dinov2Weights, MissingAndBrokenFilesAreNamed) {
  const TemporaryFolder temporary;
  const fs::path folder = temporary.path() / "model";
  EXPECT_THAT(error_of([&] { load_dinov2(folder); }), HasSubstr(folder.string()));
  fs::create_directories(folder);
  EXPECT_THAT(error_of([&] { load_dinov2(folder); }),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("pytorch_model.bin")));
  std::ofstream(folder / "model.safetensors") << "no tensors";
  EXPECT_THAT(error_of([&] { load_dinov2(folder); }), HasSubstr("model.safetensors"));
  write_safetensors(folder / "model.safetensors", copies(*random_model()));
  EXPECT_THAT(error_of([&] { load_dinov2(folder); }), HasSubstr("config.json"));
  std::ofstream(folder / "config.json") << "{ \"hidden_size\": ";
  EXPECT_THAT(error_of([&] { load_dinov2(folder); }), HasSubstr("not valid JSON"));
  json config = small_config().to_json();
  config["tessera_position_interpolation"] = "bilinear";
  write_file_atomically(folder / "config.json", config.dump());
  EXPECT_THAT(error_of([&] { load_dinov2(folder); }),
              AllOf(HasSubstr("tessera_position_interpolation"), HasSubstr("bilinear")));
  std::ofstream(temporary.path() / "file") << "x";
  EXPECT_THAT(error_of([&] { save_encoder(temporary.path() / "file", *random_model()); }), HasSubstr("file"));
}

}  // namespace
}  // namespace tessera::vision
