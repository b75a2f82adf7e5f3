#include "model/stage1_model.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/grad_mode.h>

namespace tessera::model {

namespace {

Part part_of(const std::string& name) {
  const auto starts_with = [&](const char* prefix) { return name.rfind(prefix, 0) == 0; };
  if (starts_with("vision.")) return name.find(".lora_") != std::string::npos ? Part::kLora : Part::kBackbone;
  if (starts_with("compressor.")) return Part::kCompressor;
  if (starts_with("language.")) return Part::kLanguage;
  if (starts_with("poolers.")) return Part::kHeads;
  if (starts_with("itc_temperature.")) return Part::kTemperature;
  TORCH_CHECK(false, "parameter '", name, "' belongs to no part");
}

}  // namespace

const char* part_name(Part part) {
  switch (part) {
    case Part::kBackbone:
      return "backbone";
    case Part::kLora:
      return "lora";
    case Part::kCompressor:
      return "compressor";
    case Part::kLanguage:
      return "language";
    case Part::kHeads:
      return "heads";
    case Part::kTemperature:
      return "temperature";
  }
  return "unknown";
}

Stage1Model::Stage1Model(Stage1Parts parts) : trainable_(parts.trainable), lora_(std::move(parts.lora)) {
  vision_ = register_module("vision", std::move(parts.vision));
  compressor_ = register_module("compressor", std::move(parts.compressor));
  language_ = register_module("language", std::move(parts.language));
  poolers_ = register_module("poolers", std::move(parts.poolers));
  itc_temperature_ = register_module("itc_temperature", std::move(parts.itc_temperature));

  const at::Tensor mean = at::tensor(parts.image_mean, at::kDouble);
  const at::Tensor std = at::tensor(parts.image_std, at::kDouble);
  pixel_scale_ = register_buffer("pixel_scale", (1.0 / (255.0 * std)).to(at::kFloat).view({1, 3, 1, 1}));
  pixel_offset_ = register_buffer("pixel_offset", (-mean / std).to(at::kFloat).view({1, 3, 1, 1}));

  vision_->set_backbone_trainable(trainable_ == TrainableChoice::kFull);
}

bool Stage1Model::encoder_needs_gradient() const {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor& parameter : vision_->parameters()) {
    if (parameter.requires_grad()) return true;
  }
  return false;
}

ImageFeatures Stage1Model::encode_image(const at::Tensor& pixels) {
  TORCH_CHECK(pixels.dim() == 4 && pixels.size(1) == 3 && pixels.scalar_type() == at::kByte,
              "encode_image: pixels [B,3,H,W] uint8 expected, got ", pixels.sizes(), " ",
              pixels.scalar_type());
  at::Tensor tokens;
  {
    const at::AutoGradMode gradient(encoder_needs_gradient());
    tokens = vision_->forward(at::addcmul(pixel_offset_, pixels.to(at::kFloat), pixel_scale_));
    if (const std::int64_t first_patch = vision_->first_patch(); first_patch > 1) {
      tokens = at::cat({tokens.slice(1, 0, 1), tokens.slice(1, first_patch)}, 1);
    }
  }
  const at::Tensor compressed = compressor_->forward(tokens);
  return {compressed, poolers_->image(compressed)};
}

TextFeatures Stage1Model::encode_text(const language::TokenBatch& tokens) {
  const at::Tensor hidden = language_->hidden_states(tokens.input_ids, tokens.attention_mask,
                                                     language::AttentionMode::kBidirectional);
  return {hidden, tokens.attention_mask, poolers_->text(hidden, tokens.attention_mask)};
}

void Stage1Model::set_lora_trainable(bool trainable) {
  if (lora_) vision::set_lora_trainable(*vision_, trainable);
}

void Stage1Model::set_training(bool training) {
  train(training);
  bool encoder_trains = false;
  for (const at::Tensor& parameter : vision_->parameters()) encoder_trains |= parameter.requires_grad();
  if (!encoder_trains) vision_->eval();
}

std::vector<NamedParameter> Stage1Model::named_parts() const {
  std::vector<NamedParameter> list;
  for (const auto& item : named_parameters()) list.push_back({item.key(), item.value(), part_of(item.key())});
  return list;
}

std::int64_t Stage1Model::trainable_parameters() const {
  std::int64_t count = 0;
  for (const at::Tensor& parameter : parameters()) {
    if (parameter.requires_grad()) count += parameter.numel();
  }
  return count;
}

}  // namespace tessera::model
