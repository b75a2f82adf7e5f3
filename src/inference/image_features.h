#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/device.h"
#include "core/safetensors.h"
#include "data/image_list.h"
#include "data/image_processor.h"
#include "data/image_transform.h"
#include "vision/vision_config.h"

namespace tessera::inference {

enum class FeatureKind {
  kPooled,      ///< [B, C]: what stands for the whole image (VisionEncoder::pooled)
  kTokens,      ///< [B, N, C]: all tokens of its last hidden state (a Tessera model's without registers)
  kCompressed,  ///< [B, 1+P, D]: a Tessera model's, behind its compressor
};

struct FeatureEncoderOptions {
  std::filesystem::path
      model;  ///< an encoder's folder or file (vision/encoder_families.h), or a checkpoint or bundle
  std::filesystem::path adapter;  ///< a PEFT folder onto it; empty: none
  FeatureKind kind = FeatureKind::kPooled;
  std::int64_t image_size = 0;  ///< pixels; 0: what the model's processor says
  data::Alpha alpha = data::Alpha::kWhite;
  vision::PositionInterpolation interpolation =
      vision::PositionInterpolation::kAuto;  ///< of an encoder's folder or file
};

/// A frozen image encoder and the preparation of its images: of an encoder's folder or file as the
/// preprocessor_config.json in it or beside it says (a file with none beside it:
/// VisionEncoder::preprocessing), of a Tessera model as in its evaluation. Computes without gradients.
class FeatureEncoder {
 public:
  /// @throws Error naming what can't be loaded, ConfigError for options that don't go together
  static std::unique_ptr<FeatureEncoder> open(const FeatureEncoderOptions& options, const Compute& compute);
  virtual ~FeatureEncoder() = default;

  /// An encoded image ready for the encoder, [3, h, w]. Thread-safe.
  /// @throws Error naming the image where it is broken
  virtual at::Tensor prepare(Bytes bytes, const std::string& name) const = 0;
  /// @param images [B, 3, h, w], stacked from what prepare gave
  /// @return float32 on the CPU, by `kind`
  virtual at::Tensor encode(const at::Tensor& images) = 0;
  /// Where features come from, for a file's metadata: model, model_sha1, adapter, adapter_sha1, processor,
  /// what, alpha.
  virtual StringMap description() const = 0;
};

/// How far encode_list has come.
struct FeatureProgress {
  std::int64_t done = 0;  ///< images, broken ones included
  std::int64_t of = 0;
};

struct FeatureListOptions {
  std::int64_t batch_size = 32;
  std::int64_t workers = 2;             ///< threads that decode images while others are encoded
  c10::ScalarType dtype = c10::kFloat;  ///< of the rows
  bool skip_broken = false;
  std::function<void(const FeatureProgress&)> progress;       ///< called after each batch
  std::function<void(const std::string& message)> on_broken;  ///< called where an image is skipped
};

struct EncodedList {
  std::vector<std::string> names;  ///< of the rows
  std::int64_t broken = 0;
};

/// The features of many images, batch by batch.
/// @param take  gets the rows as they come, [n, …], one an image that could be read
/// @throws Error naming the image that is broken (where they aren't skipped), has another number of tokens
///         than those before, or features that aren't finite; also where no image could be read
EncodedList encode_list(FeatureEncoder& encoder, const data::ImageList& images,
                        const FeatureListOptions& options,
                        const std::function<void(const at::Tensor& rows)>& take);

}  // namespace tessera::inference
