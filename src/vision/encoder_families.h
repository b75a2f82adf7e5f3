#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/safetensors.h"
#include "lora/module_names.h"
#include "vision/encoder.h"
#include "vision/vision_config.h"

namespace tessera::vision {

/// One kind of image encoder: by what its files are told from others', and how an encoder of it comes to be.
/// Reading and writing weights is the encoder's own (VisionEncoder::load_file_tensors, file_tensors).
struct EncoderFamily {
  std::vector<std::string_view> model_types;  ///< of config.json
  /// What files call its modules, adapters' too. A null pointer: as they are called here.
  const lora::ModuleNames& (*module_names)() = nullptr;

  /// Whether a file's keys are this family's: for a config.json that has no model_type.
  bool (*has_its_keys)(const TensorMap& tensors) = nullptr;

  /// An encoder of the shape that a config.json says, whose weights are yet to be loaded.
  /// @param source         names the file in messages
  /// @param interpolation  kAuto: as the configuration says
  /// @throws Error naming the field
  std::shared_ptr<VisionEncoder> (*from_config)(const nlohmann::json& config, const std::string& source,
                                                PositionInterpolation interpolation) = nullptr;

  /// The encoder, with its weights, of a file whose keys and shapes say all that a config.json would; null
  /// where the file is no such. A null pointer: the family has no such files.
  std::shared_ptr<VisionEncoder> (*from_bare_file)(const TensorMap& tensors, const std::string& source,
                                                   PositionInterpolation interpolation) = nullptr;

  /// An encoder as the section vision.architecture describes it, drawn from a seed. A null pointer: that
  /// section can't describe one.
  std::shared_ptr<VisionEncoder> (*random)(const ArchitectureConfig& architecture,
                                           PositionInterpolation interpolation, std::uint64_t seed) = nullptr;
};

/// Those that there are. A new encoder is an entry here.
std::span<const EncoderFamily> encoder_families();

/// An encoder of a config.json's shape, its weights yet to be loaded, of the family that its model_type
/// names.
/// @param source  names the file in messages
/// @throws Error naming the field; of a model_type that no family has, those that are accepted
std::shared_ptr<VisionEncoder> encoder_from_config(
    const nlohmann::json& config, const std::string& source, PositionInterpolation interpolation,
    std::span<const EncoderFamily> families = encoder_families());

/// Reads an encoder from
/// - a Hugging Face folder: config.json beside model.safetensors or pytorch_model.bin, or beside the shards
///   of either and their index (safetensors where both are there);
/// - a .safetensors, .bin, .pth or .pt file with Hugging Face's names and a config.json beside it;
/// - a file whose keys and shapes say its configuration (facebookresearch/dinov2's).
/// The family is the one whose from_bare_file takes the file, or else the one that config.json names by its
/// model_type, or where it has none the one whose keys the file has. Tensors may be float16, bfloat16,
/// float32 or float64 and become float32, each copied once, from the mapped file into its parameter.
/// @param interpolation  kAuto: as the files say
/// @throws Error naming file and field, or listing the tensors that are missing, unexpected or of another
/// shape
std::shared_ptr<VisionEncoder> load_encoder(
    const std::filesystem::path& path, PositionInterpolation interpolation = PositionInterpolation::kAuto,
    std::span<const EncoderFamily> families = encoder_families());

/// A random encoder as vision.architecture describes it: of the first family that can be described so.
std::shared_ptr<VisionEncoder> random_encoder(const ArchitectureConfig& architecture,
                                              PositionInterpolation interpolation, std::uint64_t seed);

}  // namespace tessera::vision
