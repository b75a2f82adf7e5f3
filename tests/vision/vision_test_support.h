#pragma once

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <memory>
#include <string>

#include "core/error.h"
#include "tests/core/temporary_folder.h"
#include "vision/dinov2.h"
#include "vision/encoder_families.h"

namespace tessera::vision {

inline Dinov2Config small_config() {
  Dinov2Config config = Dinov2Config::from_architecture({});
  config.hidden_size = 16;
  config.num_hidden_layers = 3;
  config.num_attention_heads = 2;
  config.image_size = 16;
  config.patch_size = 4;
  return config;
}

inline std::shared_ptr<Dinov2Model> random_model(const Dinov2Config& config = small_config(),
                                                 std::uint64_t seed = 1) {
  auto model = std::make_shared<Dinov2Model>(config);
  initialise_random(*model, seed);
  return model;
}

/// Of files that are a DINOv2's.
inline std::shared_ptr<Dinov2Model> load_dinov2(
    const std::filesystem::path& path, PositionInterpolation interpolation = PositionInterpolation::kAuto) {
  auto model = std::dynamic_pointer_cast<Dinov2Model>(load_encoder(path, interpolation));
  TORCH_CHECK(model != nullptr, path.string(), ": expected a DINOv2");
  return model;
}

inline at::Tensor random_pixels(std::int64_t height = 16, std::int64_t width = 16) {
  return at::randn({2, 3, height, width});
}

/// Runs a statement that must throw Error, and hands back its message.
template <typename Statement>
std::string error_of(Statement statement) {
  try {
    statement();
  } catch (const Error& error) {
    return error.what();
  }
  ADD_FAILURE() << "no Error was thrown";
  return {};
}

}  // namespace tessera::vision
