#include "core/weights_file.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "tests/vision/vision_test_support.h"

namespace tessera::vision {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;

/// Of scripts/golden/make_checkpoints.py: config.json, pytorch_model.bin, the same in shards, and what
/// transformers computes with it.
fs::path fixture() { return fs::path(TESSERA_SOURCE_DIR) / "tests/golden/checkpoints/hugging_face"; }

double error_of_features(const fs::path& weights) {
  const auto model = load_dinov2(weights);
  model->eval();
  const TensorMap expected = SafetensorsFile(fixture() / "expected.safetensors").tensors();
  const at::NoGradGuard no_grad;
  const at::Tensor found = model->forward(expected.at("pixel_values"));
  return (found - expected.at("last_hidden_state")).abs().max().item<double>();
}

TEST(WeightsFile, AFolderWithPytorchsFileLoads) {
  EXPECT_LT(error_of_features(fixture()), 2e-5);
  EXPECT_LT(error_of_features(fixture() / "pytorch_model.bin"), 2e-5);
}

TEST(WeightsFile, PytorchsShardsLoadByTheirIndex) {
  EXPECT_LT(error_of_features(fixture() / "shards.bin.index.json"), 2e-5);
  const TemporaryFolder temporary;
  for (const char* name : {"config.json", "shard-1.bin", "shard-2.bin"}) {
    fs::copy_file(fixture() / name, temporary.path() / name);
  }
  const fs::path index = temporary.path() / "pytorch_model.bin.index.json";
  fs::copy_file(fixture() / "shards.bin.index.json", index);
  EXPECT_LT(error_of_features(temporary.path()), 2e-5);
  nlohmann::json broken = nlohmann::json::parse(read_file(index));
  broken["weight_map"]["dinov2.layernorm.bias"] = "pytorch_model.bin.index.json";
  write_file_atomically(index, broken.dump());
  EXPECT_THAT(error_of([&] { load_dinov2(temporary.path()); }),
              AllOf(HasSubstr("pytorch_model.bin.index.json"), HasSubstr("expected a file of weights")));
}

/// A copy of the folder whose tensors have what training wraps around a model in their names.
void wrap_names(const fs::path& folder, const std::string& before,
                const std::string& after_first_layer = "") {
  TensorMap wrapped;
  const std::string layer = "layer.1.";
  for (const auto& [key, tensor] : read_weights(fixture() / "pytorch_model.bin")) {
    std::string name = key;
    const std::size_t at = name.find(layer);
    if (at != std::string::npos) name.insert(at + layer.size(), after_first_layer);
    wrapped[before + name] = tensor.contiguous();
  }
  fs::copy_file(fixture() / "config.json", folder / "config.json", fs::copy_options::overwrite_existing);
  write_safetensors(folder / "model.safetensors", wrapped);
}

TEST(WeightsFile, ModelsThatWereWrappedForTrainingLoad) {
  const TemporaryFolder temporary;
  for (const char* before : {"module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", ""}) {
    for (const char* after : {"", "_orig_mod.", "_checkpoint_wrapped_module."}) {
      wrap_names(temporary.path(), before, after);
      EXPECT_LT(error_of_features(temporary.path()), 2e-5) << before << after;
    }
  }
}

TEST(WeightsFile, AnotherPrefixIsNamed) {
  const TemporaryFolder temporary;
  wrap_names(temporary.path(), "model.encoder_of_images.");
  EXPECT_THAT(error_of([&] { load_dinov2(temporary.path()); }),
              AllOf(HasSubstr("unexpected: "), HasSubstr("have \"model.encoder_of_images."),
                    HasSubstr("removeprefix")));
}

TEST(WeightsFile, StandInsAreNamed) {
  const TemporaryFolder temporary;
  fs::copy_file(fixture() / "config.json", temporary.path() / "config.json");
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 346345912\n";
  for (const char* name : {"model.safetensors", "pytorch_model.bin"}) {
    const fs::path path = temporary.path() / name;
    write_file_atomically(path, pointer);
    EXPECT_THAT(error_of([&] { load_dinov2(temporary.path()); }),
                AllOf(HasSubstr(name), HasSubstr("git lfs pull")));
    write_file_atomically(path, "<!doctype html><html></html>");
    EXPECT_THAT(error_of([&] { load_dinov2(temporary.path()); }),
                AllOf(HasSubstr(name), HasSubstr("web page")));
    fs::remove(path);
  }
  fs::copy_file(fixture() / "pytorch_model.bin", temporary.path() / "pytorch_model.bin");
  write_file_atomically(temporary.path() / "config.json", pointer);
  EXPECT_THAT(error_of([&] { load_dinov2(temporary.path()); }),
              AllOf(HasSubstr("config.json"), HasSubstr("git lfs pull")));
}

TEST(WeightsFile, SafetensorsComeFirstAndTheIndexAfterItsFile) {
  const TemporaryFolder temporary;
  for (const char* name : {"pytorch_model.bin.index.json", "pytorch_model.bin",
                           "model.safetensors.index.json", "model.safetensors"}) {
    std::ofstream(temporary.path() / name) << "x";
    EXPECT_EQ(find_weights_file(temporary.path()).filename(), name);
  }
}

TEST(WeightsFile, WhatIsAcceptedIsSaid) {
  const TemporaryFolder temporary;
  for (const fs::path& path :
       {temporary.path(), temporary.path() / "absent", temporary.path() / "weights.npz"}) {
    if (path.extension() == ".npz") std::ofstream(path) << "x";
    EXPECT_THAT(error_of([&] { load_dinov2(path); }),
                AllOf(HasSubstr(path.string()), HasSubstr(".safetensors"), HasSubstr(".bin")));
  }
  fs::copy_file(fixture() / "pytorch_model.bin", temporary.path() / "alone.pth");
  EXPECT_THAT(error_of([&] { load_dinov2(temporary.path() / "alone.pth"); }), HasSubstr("no config.json"));
}

}  // namespace
}  // namespace tessera::vision
