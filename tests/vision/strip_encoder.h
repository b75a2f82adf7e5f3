#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "nn/state_dict.h"
#include "vision/encoder.h"
#include "vision/encoder_families.h"

namespace tessera::vision {

/// The shape of a StripEncoder, and its config.json.
struct StripShape {
  std::int64_t hidden_size = 8;
  std::int64_t rows_of_pixels = 14;    ///< a patch's
  std::int64_t columns_of_pixels = 7;  ///< a patch's, of which the rows' number is a multiple
  std::int64_t leading_tokens = 0;     ///< 0: no pooled token; else that and registers
};

/// An encoder that has nothing of DINOv2: one product over patches that are not square, so that the grid of a
/// square image isn't either, with or without tokens before them.
class StripEncoder : public VisionEncoder {
 public:
  explicit StripEncoder(const StripShape& shape) : shape_(shape) {
    projection_ = register_parameter(
        "projection", at::zeros({shape.hidden_size, 3 * shape.rows_of_pixels * shape.columns_of_pixels}));
    leading_ = register_parameter("leading", at::zeros({shape.leading_tokens, shape.hidden_size}));
  }
  /// With weights.
  static std::shared_ptr<StripEncoder> random(const StripShape& shape) {
    auto encoder = std::make_shared<StripEncoder>(shape);
    const at::NoGradGuard no_grad;
    at::Tensor &projection = encoder->projection_, &leading = encoder->leading_;
    projection.copy_(at::arange(projection.numel()).mul(0.7).sin().mul(0.2).view_as(projection));
    leading.copy_(at::arange(leading.numel()).add(1).cos().view_as(leading));
    return encoder;
  }

  at::Tensor forward(const at::Tensor& pixels) override {
    const std::int64_t batch = pixels.size(0), height = shape_.rows_of_pixels;
    const std::int64_t width = shape_.columns_of_pixels;
    const PatchGrid patches = grid(pixels.size(2), pixels.size(3));
    const at::Tensor rows = pixels.reshape({batch, 3, patches.rows, height, patches.columns, width})
                                .permute({0, 2, 4, 1, 3, 5})
                                .reshape({batch, patches.patches(), 3 * height * width});
    return at::cat({leading_.expand({batch, -1, -1}), at::matmul(rows, projection_.t())}, 1);
  }
  std::int64_t hidden_size() const override { return shape_.hidden_size; }
  std::int64_t first_patch() const override { return shape_.leading_tokens; }
  std::int64_t patch_size() const override { return shape_.rows_of_pixels; }
  PatchGrid grid(std::int64_t height, std::int64_t width) const override {
    return {height / shape_.rows_of_pixels, width / shape_.columns_of_pixels};
  }
  void standardise_output(const at::Tensor& /*mean*/, const at::Tensor& deviation) override {
    const at::NoGradGuard no_grad;
    projection_.div_(deviation.unsqueeze(1));
  }
  void set_backbone_trainable(bool trainable) override {
    for (at::Tensor& parameter : parameters()) parameter.set_requires_grad(trainable);
  }
  void set_gradient_checkpointing(bool /*on*/) override {}
  EncoderActivations activations(std::int64_t height, std::int64_t width,
                                 const Compute& /*compute*/) const override {
    const bool trains = projection_.requires_grad();
    const double of_pixels = 4.0 * 3 * static_cast<double>(height * width);
    return {.kept = trains ? of_pixels : 0, .passing = of_pixels};
  }

  nlohmann::json config_json() const override {
    return {{"model_type", "strips"},
            {"hidden_size", shape_.hidden_size},
            {"patch", {shape_.rows_of_pixels, shape_.columns_of_pixels}},
            {"leading_tokens", shape_.leading_tokens}};
  }
  HuggingFaceClass hugging_face_class() const override { return {"StripModel", "strips"}; }
  Preprocessing preprocessing() const override {
    return {.crop_size = 28, .shortest_edge = 28, .image_mean = {0, 0, 0}, .image_std = {1, 1, 1}};
  }
  TensorMap file_tensors() const override {
    return {{"strips.projection", projection_}, {"strips.leading", leading_}};
  }
  void load_file_tensors(const TensorMap& tensors, const std::string& source) override {
    nn::load_state_dict(file_tensors(), tensors, {}, source);
  }

 private:
  StripShape shape_;
  at::Tensor projection_;  ///< [C, 3·rows·columns]
  at::Tensor leading_;     ///< [F, C]
};

/// Its entry among encoders.
inline EncoderFamily strip_family() {
  return {.model_types = {"strips"},
          .has_its_keys = [](const TensorMap& tensors) { return tensors.count("strips.projection") != 0; },
          .from_config = [](const nlohmann::json& config, const std::string& /*source*/,
                            PositionInterpolation /*interpolation*/) -> std::shared_ptr<VisionEncoder> {
            return std::make_shared<StripEncoder>(StripShape{.hidden_size = config.at("hidden_size"),
                                                             .rows_of_pixels = config.at("patch").at(0),
                                                             .columns_of_pixels = config.at("patch").at(1),
                                                             .leading_tokens = config.at("leading_tokens")});
          }};
}

}  // namespace tessera::vision
