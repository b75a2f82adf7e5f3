#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "vision/vision_config.h"

namespace tessera::vision {

/// The fields of Hugging Face's Dinov2Config and Dinov2WithRegistersConfig that shape the computation, from
/// a configuration or a file. The published models have image_size 518 and patch_size 14.
struct Dinov2Config {
  std::int64_t hidden_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  double mlp_ratio = 0;
  std::int64_t image_size = 0;  ///< pixels along the side for which there is a position embedding each
  std::int64_t patch_size = 0;
  std::int64_t num_register_tokens = 0;
  bool with_registers = false;  ///< Dinov2WithRegistersModel, which also a model of no registers may be
  bool qkv_bias = true;
  bool use_swiglu_ffn = false;
  bool use_mask_token = true;
  double layerscale_value = 0;
  double layer_norm_eps = 0;
  /// What kAuto means for these weights; itself kAuto: as transformers' class does.
  PositionInterpolation position_interpolation = PositionInterpolation::kAuto;

  /// From a config.json. A field that is absent has the default of transformers' class.
  /// @param source names the file in messages
  /// @throws Error naming the field where it has a wrong type, is out of range, or asks for what isn't
  /// supported
  ///         (hidden_act other than gelu, dropout or drop path other than 0, images that are not square, …)
  static Dinov2Config from_json(const nlohmann::json& json, const std::string& source);
  static Dinov2Config from_architecture(const ArchitectureConfig& architecture);

  /// A config.json that transformers reads. Where positions are not interpolated as its class does, it says
  /// so under "tessera_position_interpolation", which from_json reads and transformers passes over.
  nlohmann::json to_json() const;

  /// @throws Error naming the field
  void check(const std::string& source) const;

  /// kSizeAntialias with registers, else kSize.
  PositionInterpolation hugging_face_interpolation() const;

  std::int64_t grid_size() const { return image_size / patch_size; }  ///< patches along the side
  std::int64_t intermediate_size() const;                             ///< width of the feed-forward part
  const char* hugging_face_class() const {
    return with_registers ? "Dinov2WithRegistersModel" : "Dinov2Model";
  }
  const char* hugging_face_module() const;  ///< the Python module of that class
};

}  // namespace tessera::vision
