#include "model/stage1_model.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/grad_mode.h>

#include "fusion/fused_decode_step.h"

namespace tessera::model {

namespace {

Part part_of(const std::string& name) {
  const auto starts_with = [&](const char* prefix) { return name.rfind(prefix, 0) == 0; };
  if (starts_with("vision.")) return name.find(".lora_") != std::string::npos ? Part::kLora : Part::kBackbone;
  if (starts_with("compressor.")) return Part::kCompressor;
  if (starts_with("language.")) return Part::kLanguage;
  if (starts_with("fusion.")) {
    return name.size() >= 5 && name.compare(name.size() - 5, 5, ".gate") == 0 ? Part::kGates : Part::kFusion;
  }
  for (const char* head : {"poolers.", "token_projections.", "match_head."}) {
    if (starts_with(head)) return Part::kHeads;
  }
  for (const char* part : {"pair_code.", "memory."}) {
    if (starts_with(part)) return Part::kMemory;
  }
  for (const char* temperature : {"itc_temperature.", "maxsim_temperature."}) {
    if (starts_with(temperature)) return Part::kTemperature;
  }
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
    case Part::kFusion:
      return "fusion";
    case Part::kGates:
      return "gates";
    case Part::kHeads:
      return "heads";
    case Part::kMemory:
      return "memory";
    case Part::kTemperature:
      return "temperature";
  }
  return "unknown";
}

Stage1Model::Stage1Model(Stage1Parts parts) : trainable_(parts.trainable), lora_(std::move(parts.lora)) {
  vision_ = register_module("vision", std::move(parts.vision));
  compressor_ = register_module("compressor", std::move(parts.compressor));
  language_ = register_module("language", std::move(parts.language));
  fusion_ = register_module("fusion", std::move(parts.fusion));
  poolers_ = register_module("poolers", std::move(parts.poolers));
  token_projections_ = register_module("token_projections", std::move(parts.token_projections));
  match_head_ = register_module("match_head", std::move(parts.match_head));
  pair_code_ = register_module("pair_code", std::move(parts.pair_code));
  memory_ = register_module("memory", std::move(parts.memory));
  itc_temperature_ = register_module("itc_temperature", std::move(parts.itc_temperature));
  maxsim_temperature_ = register_module("maxsim_temperature", std::move(parts.maxsim_temperature));

  const at::Tensor mean = at::tensor(parts.image_mean, at::kDouble);
  const at::Tensor std = at::tensor(parts.image_std, at::kDouble);
  pixel_scale_ = register_buffer("pixel_scale", (1.0 / (255.0 * std)).to(at::kFloat).view({1, 3, 1, 1}));
  pixel_offset_ = register_buffer("pixel_offset", (-mean / std).to(at::kFloat).view({1, 3, 1, 1}));

  vision_->set_backbone_trainable(trainable_ == TrainableChoice::kFull);
  if (lora_) {
    for (const std::string& name : vision::parameters_beside_adapters(*vision_, *lora_))
      beside_adapters_.insert("vision." + name);
  }
}

bool Stage1Model::encoder_needs_gradient() const {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor& parameter : vision_->parameters()) {
    if (parameter.requires_grad()) return true;
  }
  return false;
}

at::Tensor Stage1Model::encoder_tokens(const at::Tensor& pixels) {
  RECORD_USER_SCOPE("encoder");
  TORCH_CHECK(pixels.dim() == 4 && pixels.size(1) == 3 && pixels.scalar_type() == at::kByte,
              "encoder: pixels [B,3,H,W] uint8 expected, got ", pixels.sizes(), " ", pixels.scalar_type());
  const at::AutoGradMode gradient(encoder_needs_gradient());
  const at::Tensor tokens = vision_->forward(at::addcmul(pixel_offset_, pixels.to(at::kFloat), pixel_scale_));
  const std::int64_t first_patch = vision_->first_patch();
  if (first_patch == 1) return tokens;
  return at::cat({tokens.slice(1, 0, 1), tokens.slice(1, first_patch)}, 1);
}

at::Tensor Stage1Model::compress_image(const at::Tensor& pixels) {
  return compressor_->forward(encoder_tokens(pixels));
}

ImageFeatures Stage1Model::image_features(const at::Tensor& tokens) {
  at::Tensor attended = fusion_->attended_image(tokens);
  std::vector<at::Tensor> states = fusion_->image_states(tokens, attended);
  at::Tensor embedding = poolers_->image(states.back());
  return {tokens, std::move(attended), std::move(states), std::move(embedding)};
}

at::Tensor Stage1Model::lower_text(const language::TokenBatch& tokens) {
  return fusion_->lower_text(language_, tokens.input_ids,
                             language_->context(tokens.attention_mask, tokens.input_ids.size(1),
                                                language::AttentionMode::kBidirectional));
}

TextFeatures Stage1Model::encode_text(const language::TokenBatch& tokens) {
  const language::DecoderContext context = language_->context(tokens.attention_mask, tokens.input_ids.size(1),
                                                              language::AttentionMode::kBidirectional);
  TextFeatures text{tokens.input_ids, tokens.attention_mask, {}, {}, {}, {}};
  text.lower = fusion_->lower_text(language_, tokens.input_ids, context);
  text.attended = fusion_->attended_text(language_, text.lower, context);
  text.hidden_states = fusion_->upper_text(language_, text.attended, context);
  text.embedding = poolers_->text(text.hidden_states, tokens.attention_mask);
  return text;
}

at::Tensor Stage1Model::match_logits(const at::Tensor& image_tokens, const at::Tensor& lower_text,
                                     const at::Tensor& attention_mask, const fusion::PairRows& pairs,
                                     const fusion::FirstAttention& attended) {
  const language::DecoderContext context =
      language_->context(attention_mask, lower_text.size(1), language::AttentionMode::kBidirectional);
  const fusion::FusedStates fused =
      fusion_->fused(language_, image_tokens, lower_text, attention_mask, context, pairs, attended);
  return match_head_->forward(
      fused.image, fused.text,
      pairs.text.defined() ? attention_mask.index_select(0, pairs.text) : attention_mask);
}

at::Tensor Stage1Model::unconditioned_text(const at::Tensor& input_ids) {
  const language::DecoderContext context =
      language_->context({}, input_ids.size(1), language::AttentionMode::kCausal);
  return fusion_->attended_text(language_, fusion_->lower_text(language_, input_ids, context), context);
}

at::Tensor Stage1Model::caption_logits(const at::Tensor& text, const fusion::CaptionCondition& condition) {
  TORCH_CHECK(condition.batch_size() == text.size(0), "caption pass: a condition for each of ", text.size(0),
              " captions expected, got ", condition.batch_size());
  const language::DecoderContext context =
      language_->context({}, text.size(1), language::AttentionMode::kCausal);
  return language_->logits(
      fusion_->conditioned_text(language_, text, context, fusion_->caption_keys(condition)));
}

std::unique_ptr<language::DecodeStep> Stage1Model::decoder(const fusion::CaptionCondition& condition) {
  return std::make_unique<fusion::FusedDecodeStep>(language_, fusion_, condition);
}

Stage1Model::PairVectors Stage1Model::pair_vectors(const ImageFeatures* image,
                                                   const TextFeatures* text) const {
  const at::NoGradGuard no_grad;
  PairVectors pairs;
  if (image != nullptr) pairs.image = fusion::pooled_image_tokens(image->states.back());
  if (text != nullptr) pairs.text = fusion::masked_mean(text->hidden_states, text->attention_mask);
  return pairs;
}

void Stage1Model::freeze_unused(const LossesConfig& losses) {
  const bool matches = losses.itm.weight > 0;
  const bool decodes = losses.caption.weight > 0 || losses.memory.weight > 0;
  const auto freeze = [](torch::nn::Module& module) {
    for (at::Tensor& parameter : module.parameters()) parameter.set_requires_grad(false);
  };
  if (losses.itc.weight == 0) {
    freeze(*poolers_);
    freeze(*itc_temperature_);
  }
  if (losses.maxsim.weight == 0) {
    freeze(*token_projections_);
    freeze(*maxsim_temperature_);
  }
  if (!matches) freeze(*match_head_);
  if (!decodes) {
    // A head of its own predicts tokens and nothing else; a tied one is the embedding.
    if (const auto* head = language_->named_children().find("lm_head")) freeze(**head);
  }
  if (losses.memory.weight == 0) {
    freeze(*pair_code_);
    freeze(*memory_);
  }
  fusion_->freeze_unused({.encodes = losses.itc.weight > 0 || losses.maxsim.weight > 0,
                          .matches = matches,
                          .decodes = decodes,
                          .remembers = losses.memory.weight > 0});
}

Stage1Model::Gates Stage1Model::gates() const {
  std::vector<at::Tensor> text, image;
  fusion::FusionTower tower = fusion_;  // a holder: the same tower
  for (std::int64_t level = 0; level < fusion_->levels(); ++level) {
    text.push_back(tower->text_cross_attention(level).gate.detach());
    image.push_back(tower->image_block(level).cross_attention->gate.detach());
  }
  return {at::cat(text), at::cat(image)};
}

void Stage1Model::set_lora_trainable(bool trainable) {
  if (lora_) vision::set_lora_trainable(*vision_, *lora_, trainable);
}

void Stage1Model::set_training(bool training) {
  train(training);
  bool encoder_trains = false;
  for (const at::Tensor& parameter : vision_->parameters()) encoder_trains |= parameter.requires_grad();
  if (!encoder_trains) vision_->eval();
}

std::vector<NamedParameter> Stage1Model::named_parts() const {
  std::vector<NamedParameter> list;
  for (const auto& item : named_parameters()) {
    const bool is_lora = beside_adapters_.count(item.key()) != 0;
    list.push_back({item.key(), item.value(), is_lora ? Part::kLora : part_of(item.key())});
  }
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
