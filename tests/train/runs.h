#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>

#include "core/safetensors.h"
#include "train/trainer.h"

namespace tessera::train {

inline constexpr TrainerOptions kQuiet{.log_to_terminal = false};

/// Runs to the end, or to `stop_after` updates; with `resume`, from the latest checkpoint.
inline RunOutcome train(const Config& config, const std::string& resume = "", std::int64_t stop_after = 0) {
  TrainerOptions options = kQuiet;
  options.resume = resume;
  options.stop_after = stop_after;
  return Trainer(config, options).run();
}

/// Every tensor of a checkpoint: weights, adapters, language model, moments, queue, random state.
inline TensorMap checkpoint_tensors(const std::filesystem::path& folder) {
  TensorMap all;
  for (const char* file :
       {"model.safetensors", "adapter/adapter_model.safetensors",
        "language_adapter/adapter_model.safetensors", "fusion_adapter/adapter_model.safetensors",
        "language_model/model.safetensors", "optimizer", "state"}) {
    // Not every checkpoint has these: expect_same_checkpoint counts what it finds.
    if (std::string(file).find("_adapter/") != std::string::npos && !std::filesystem::exists(folder / file))
      continue;
    for (const auto& [name, tensor] : SafetensorsFile(folder / file).tensors()) {
      all[std::string(file) + ":" + name] = tensor.clone();
    }
  }
  return all;
}

inline void expect_same_checkpoint(const std::filesystem::path& left, const std::filesystem::path& right) {
  const TensorMap expected = checkpoint_tensors(left);
  const TensorMap found = checkpoint_tensors(right);
  ASSERT_EQ(expected.size(), found.size());
  for (const auto& [name, tensor] : expected) {
    ASSERT_EQ(found.count(name), 1u) << name;
    EXPECT_TRUE(torch::equal(tensor, found.at(name))) << name;
  }
}

}  // namespace tessera::train
