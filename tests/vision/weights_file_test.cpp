#include "core/weights_file.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "core/files.h"
#include "tests/vision/vision_test_support.h"
#include "vision/dinov2_weights.h"

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
