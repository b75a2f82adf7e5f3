#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "core/autocast.h"
#include "core/error.h"
#include "core/files.h"
#include "core/weights_file.h"
#include "data/data_config.h"
#include "inference/image_features.h"
#include "lora/peft_files.h"
#include "model/adaptable_parts.h"
#include "model/build.h"
#include "model/stage1_model.h"
#include "model/weights.h"
#include "vision/encoder_families.h"
#include "vision/vision_config.h"

namespace tessera::inference {
namespace {

namespace fs = std::filesystem;

const char* name_of(FeatureKind kind) {
  switch (kind) {
    case FeatureKind::kPooled:
      return "pooled";
    case FeatureKind::kTokens:
      return "tokens";
    case FeatureKind::kCompressed:
      return "compressed";
  }
  return "";
}

data::ImageProcessorOptions processor_of(const vision::Preprocessing& preprocessing) {
  data::ImageProcessorOptions options;
  options.shortest_edge = preprocessing.shortest_edge;
  options.crop_size = {preprocessing.crop_size, preprocessing.crop_size};
  std::copy_n(preprocessing.image_mean.begin(), 3, options.image_mean.begin());
  std::copy_n(preprocessing.image_std.begin(), 3, options.image_std.begin());
  return options;
}

/// What the two kinds of model share.
class EncoderBase : public FeatureEncoder {
 public:
  EncoderBase(const FeatureEncoderOptions& options, const data::ImageProcessorOptions& processor,
              const Compute& compute)
      : options_(options),
        processor_(options.image_size > 0 ? processor.with_image_size(options.image_size) : processor),
        compute_(compute) {}

  at::Tensor encode(const at::Tensor& images) override {
    const c10::NoGradGuard no_grad;
    const AutocastScope autocast(compute_);
    return features(images.to(compute_.device)).to(at::kCPU, at::kFloat);
  }

  StringMap description() const override {
    StringMap description = {{"model", options_.model.string()},
                             {"what", name_of(options_.kind)},
                             {"alpha", options_.alpha == data::Alpha::kWhite ? "white" : "drop"},
                             {"processor", processor_.options().to_json().dump()}};
    return description;
  }

 protected:
  virtual at::Tensor features(const at::Tensor& images) = 0;

  at::Tensor pixels(Bytes bytes, const std::string& name) const {
    return processor_.pixels(data::decode_image(bytes, name, options_.alpha), name);
  }

  static void add_adapter(StringMap& description, const fs::path& folder) {
    description["adapter"] = folder.string();
    description["adapter_sha1"] = file_hash(lora::adapter_weights_file(folder));
  }

  FeatureEncoderOptions options_;
  data::ImageProcessor processor_;
  Compute compute_;
};

/// An encoder by itself.
class PlainEncoder final : public EncoderBase {
 public:
  PlainEncoder(const FeatureEncoderOptions& options, std::shared_ptr<vision::VisionEncoder> model,
               const data::ImageProcessorOptions& processor, const Compute& compute)
      : EncoderBase(options, processor, compute), model_(std::move(model)) {
    if (!options.adapter.empty()) lora::load_adapter(options.adapter, *model_);
    model_->to(compute.device);
    model_->eval();
  }

  at::Tensor prepare(Bytes bytes, const std::string& name) const override {
    return processor_.values(pixels(bytes, name));
  }

  StringMap description() const override {
    StringMap description = EncoderBase::description();
    description["model_sha1"] = model::backbone_hash(options_.model);
    if (!options_.adapter.empty()) add_adapter(description, options_.adapter);
    return description;
  }

 private:
  at::Tensor features(const at::Tensor& images) override {
    const at::Tensor tokens = model_->forward(images);
    return options_.kind == FeatureKind::kPooled ? model_->pooled(tokens).squeeze(1) : tokens;
  }

  std::shared_ptr<vision::VisionEncoder> model_;
};

std::unique_ptr<FeatureEncoder> open_plain(const FeatureEncoderOptions& options, const Compute& compute) {
  find_weights_file(options.model);  // before its processor is missed
  std::optional<data::ImageProcessorOptions> processor;
  const fs::path beside = options.model.parent_path() / "preprocessor_config.json";
  if (fs::is_directory(options.model)) {
    processor = data::ImageProcessorOptions::load(options.model);
  } else if (fs::exists(beside)) {
    processor = data::ImageProcessorOptions::load(beside);
  }
  auto model = vision::load_encoder(options.model, options.interpolation);
  if (!processor) processor = processor_of(model->preprocessing());
  return std::make_unique<PlainEncoder>(options, std::move(model), *processor, compute);
}

class TesseraEncoder final : public EncoderBase {
 public:
  TesseraEncoder(const FeatureEncoderOptions& options, model::LoadedModel loaded, const Compute& compute)
      : EncoderBase(options, processor_options(loaded.config.data), compute), loaded_(std::move(loaded)) {
    loaded_.model->to(compute.device);
    loaded_.model->set_training(false);
  }

  /// The model normalises its images itself.
  at::Tensor prepare(Bytes bytes, const std::string& name) const override { return pixels(bytes, name); }

  StringMap description() const override {
    StringMap description = EncoderBase::description();
    description["model_sha1"] = file_hash(options_.model / "model.safetensors");
    const fs::path adapter = options_.model / model::adaptable_parts().front().folder;
    if (loaded_.model->has_lora() && fs::exists(adapter)) add_adapter(description, adapter);
    return description;
  }

 private:
  /// The transform of evaluation (data/image_transform.h).
  static data::ImageProcessorOptions processor_options(const data::DataConfig& config) {
    return processor_of({.crop_size = config.image_size,
                         .shortest_edge = config.image_size,
                         .image_mean = config.image_mean,
                         .image_std = config.image_std});
  }

  at::Tensor features(const at::Tensor& images) override {
    if (options_.kind == FeatureKind::kCompressed) return loaded_.model->compress_image(images);
    const at::Tensor tokens = loaded_.model->encoder_tokens(images);
    return options_.kind == FeatureKind::kPooled ? tokens.select(1, 0) : tokens;
  }

  model::LoadedModel loaded_;
};

}  // namespace

std::unique_ptr<FeatureEncoder> FeatureEncoder::open(const FeatureEncoderOptions& options,
                                                     const Compute& compute) {
  const bool is_tessera = fs::exists(options.model / "config.yaml");
  if (is_tessera && !options.adapter.empty()) {
    throw ConfigError(
        fmt::format("--adapter: {} is a Tessera model, which has its own", options.model.string()));
  }
  if (is_tessera && options.interpolation != vision::PositionInterpolation::kAuto) {
    throw ConfigError(
        fmt::format("--position-interpolation: {} is a Tessera model, whose configuration says it "
                    "(vision.position_interpolation)",
                    options.model.string()));
  }
  if (is_tessera) {
    return std::make_unique<TesseraEncoder>(options, model::load_model(options.model), compute);
  }
  if (options.kind == FeatureKind::kCompressed) {
    throw ConfigError(
        fmt::format("--what compressed: {} is no Tessera model (a checkpoint or bundle), which has "
                    "a compressor",
                    options.model.string()));
  }
  if (fs::exists(options.model / lora::kAdapterConfigFile)) {
    throw ConfigError(
        fmt::format("--model: {} is an adapter; name the model that it belongs to, and it as --adapter",
                    options.model.string()));
  }
  return open_plain(options, compute);
}

}  // namespace tessera::inference
