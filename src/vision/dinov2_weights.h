#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/safetensors.h"
#include "vision/dinov2.h"

namespace tessera::vision {

/// Reads a model from
/// - a Hugging Face folder: config.json beside model.safetensors or pytorch_model.bin, or beside the shards
/// of
///   either and their index (safetensors where both are there);
/// - a .safetensors, .bin, .pth or .pt file with Hugging Face's names and a config.json beside it;
/// - a file with facebookresearch/dinov2's names, whose configuration follows from its shapes
///   (vision/facebook_weights.h); kAuto then means what facebook's hub does.
/// Tensors may be float16, bfloat16, float32 or float64 and become float32, each copied once, from the mapped
/// file into its parameter. Hugging Face's keys may be legacy or those of transformers 5's modules, with or
/// without the prefix of a wrapper class ("dinov2.", "dinov2_with_registers."), whose classifier is left out.
/// @throws Error naming file and field, or listing the tensors that are missing, unexpected or of another
/// shape
std::shared_ptr<Dinov2Model> load_dinov2(const std::filesystem::path& path,
                                         PositionInterpolation interpolation = PositionInterpolation::kAuto);

/// Copies tensors, named as load_dinov2 takes them, into a model's backbone. A mask token may be absent and
/// becomes zero. Nothing is written where anything is wrong.
/// @param source  names the file in messages
void load_dinov2_tensors(Dinov2Model& model, const TensorMap& tensors, const std::string& source);

/// The backbone's parameters under their legacy keys, without adapters; the tensors themselves, not copies.
TensorMap dinov2_tensors(const Dinov2Model& model);

/// What preprocessor_config.json says: shortest edge (bicubic), centre crop, mean and deviation.
struct Preprocessing {
  std::int64_t crop_size = 224;
  std::int64_t shortest_edge = 256;
  std::vector<double> image_mean = {0.485, 0.456, 0.406};
  std::vector<double> image_std = {0.229, 0.224, 0.225};
};

/// Writes a folder that transformers' from_pretrained reads: config.json, model.safetensors (legacy keys),
/// preprocessor_config.json. A new folder appears as a whole; in an existing one the files are replaced one
/// by one. Adapters are not written and not merged.
/// @param dtype  float32, float16 or bfloat16: to which the parameters are rounded
/// @throws Error naming the file that can't be written
void save_dinov2(const std::filesystem::path& folder, const Dinov2Model& model,
                 const Preprocessing& preprocessing = {}, at::ScalarType dtype = at::kFloat);

/// The narrowest type of the weights behind a path that load_dinov2 takes.
at::ScalarType stored_dtype(const std::filesystem::path& path);

}  // namespace tessera::vision
