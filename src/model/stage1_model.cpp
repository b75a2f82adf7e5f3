#include "model/stage1_model.h"

#include <ATen/ATen.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/grad_mode.h>
#include <torch/nn/module.h>

#include "fusion/fused_decode_step.h"
#include "fusion/pooling.h"
#include "lora/lora.h"
#include "losses/loss_abilities.h"
#include "model/stage1_parts.h"
#include "nn/freeze.h"

namespace tessera::model {

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

Stage1Model::Stage1Model(Stage1Parts parts)
    : parts_(std::make_unique<Stage1Parts>(std::move(parts))),
      module_(std::make_shared<torch::nn::Module>()) {
  const auto add = [&](const std::string& name, Part part, const std::shared_ptr<torch::nn::Module>& module) {
    module_->register_module(name, module);
    part_of_module_[name] = part;
  };
  add("vision", Part::kBackbone, parts_->vision);
  add("compressor", Part::kCompressor, parts_->compressor.ptr());
  add("language", Part::kLanguage, parts_->language.ptr());
  add("fusion", Part::kFusion, parts_->fusion.ptr());
  add("poolers", Part::kHeads, parts_->poolers.ptr());
  add("token_projections", Part::kHeads, parts_->token_projections.ptr());
  add("match_head", Part::kHeads, parts_->match_head.ptr());
  add("pair_code", Part::kMemory, parts_->pair_code.ptr());
  add("memory", Part::kMemory, parts_->memory.ptr());
  add("itc_temperature", Part::kTemperature, parts_->itc_temperature);
  add("maxsim_temperature", Part::kTemperature, parts_->maxsim_temperature);
  for (const ObjectivePart& objective : parts_->objectives)
    add(objective.name, objective.part, objective.module);

  const at::Tensor mean = at::tensor(parts_->image_mean, at::kDouble);
  const at::Tensor std = at::tensor(parts_->image_std, at::kDouble);
  pixel_scale_ =
      module_->register_buffer("pixel_scale", (1.0 / (255.0 * std)).to(at::kFloat).view({1, 3, 1, 1}));
  pixel_offset_ = module_->register_buffer("pixel_offset", (-mean / std).to(at::kFloat).view({1, 3, 1, 1}));

  parts_->vision->set_backbone_trainable(parts_->trainable == lora::TrainableChoice::kFull);
  if (parts_->lora) {
    for (const std::string& name : lora::parameters_beside_adapters(*parts_->vision, *parts_->lora))
      beside_adapters_.insert("vision." + name);
  }
}

Stage1Model::~Stage1Model() = default;

bool Stage1Model::encoder_trains() const {
  for (const at::Tensor& parameter : parts_->vision->parameters()) {
    if (parameter.requires_grad()) return true;
  }
  return false;
}

at::Tensor Stage1Model::encoder_tokens(const at::Tensor& pixels) {
  RECORD_USER_SCOPE("encoder");
  TORCH_CHECK(pixels.dim() == 4 && pixels.size(1) == 3 && pixels.scalar_type() == at::kByte,
              "encoder: pixels [B,3,H,W] uint8 expected, got ", pixels.sizes(), " ", pixels.scalar_type());
  const at::AutoGradMode gradient(at::GradMode::is_enabled() && encoder_trains());
  const at::Tensor tokens =
      parts_->vision->forward(at::addcmul(pixel_offset_, pixels.to(at::kFloat), pixel_scale_));
  const std::int64_t first_patch = parts_->vision->first_patch();
  if (first_patch == 1) return tokens;
  return at::cat({parts_->vision->pooled(tokens), tokens.slice(1, first_patch)}, 1);
}

at::Tensor Stage1Model::compress_image(const at::Tensor& pixels) {
  return parts_->compressor->forward(encoder_tokens(pixels));
}

ImageFeatures Stage1Model::image_features(const at::Tensor& tokens) {
  at::Tensor attended = parts_->fusion->attended_image(tokens);
  std::vector<at::Tensor> states = parts_->fusion->image_states(tokens, attended);
  at::Tensor embedding = parts_->poolers->image(states.back());
  return {tokens, std::move(attended), std::move(states), std::move(embedding)};
}

at::Tensor Stage1Model::lower_text(const language::TokenBatch& tokens) {
  return parts_->fusion->lower_text(parts_->language, tokens.input_ids,
                                    parts_->language->context(tokens.attention_mask, tokens.input_ids.size(1),
                                                              language::AttentionMode::kBidirectional));
}

TextFeatures Stage1Model::encode_text(const language::TokenBatch& tokens) {
  const language::DecoderContext context = parts_->language->context(
      tokens.attention_mask, tokens.input_ids.size(1), language::AttentionMode::kBidirectional);
  TextFeatures text{tokens.input_ids, tokens.attention_mask, {}, {}, {}, {}};
  text.lower = parts_->fusion->lower_text(parts_->language, tokens.input_ids, context);
  text.attended = parts_->fusion->attended_text(parts_->language, text.lower, context);
  text.hidden_states = parts_->fusion->upper_text(parts_->language, text.attended, context);
  text.embedding = parts_->poolers->text(text.hidden_states, tokens.attention_mask);
  return text;
}

at::Tensor Stage1Model::match_logits(const at::Tensor& image_tokens, const at::Tensor& lower_text,
                                     const at::Tensor& attention_mask, const fusion::PairRows& pairs,
                                     const fusion::FirstAttention& attended) {
  const language::DecoderContext context =
      parts_->language->context(attention_mask, lower_text.size(1), language::AttentionMode::kBidirectional);
  const fusion::FusedStates fused = parts_->fusion->fused(parts_->language, image_tokens, lower_text,
                                                          attention_mask, context, pairs, attended);
  return parts_->match_head->forward(
      fused.image, fused.text,
      pairs.text.defined() ? attention_mask.index_select(0, pairs.text) : attention_mask);
}

at::Tensor Stage1Model::unconditioned_text(const at::Tensor& input_ids) {
  const language::DecoderContext context =
      parts_->language->context({}, input_ids.size(1), language::AttentionMode::kCausal);
  return parts_->fusion->attended_text(
      parts_->language, parts_->fusion->lower_text(parts_->language, input_ids, context), context);
}

at::Tensor Stage1Model::caption_logits(const at::Tensor& text, const fusion::CaptionCondition& condition) {
  TORCH_CHECK(condition.batch_size() == text.size(0), "caption pass: a condition for each of ", text.size(0),
              " captions expected, got ", condition.batch_size());
  const language::DecoderContext context =
      parts_->language->context({}, text.size(1), language::AttentionMode::kCausal);
  return parts_->language->logits(parts_->fusion->conditioned_text(parts_->language, text, context,
                                                                   parts_->fusion->caption_keys(condition)));
}

at::Tensor Stage1Model::patch_embeddings(const ImageFeatures& image) {
  return parts_->token_projections->patches(image.states.back());
}

at::Tensor Stage1Model::token_embeddings(const TextFeatures& text) {
  return parts_->token_projections->text_tokens(text.hidden_states);
}

std::unique_ptr<language::DecodeStep> Stage1Model::decoder(const fusion::CaptionCondition& condition) {
  return std::make_unique<fusion::FusedDecodeStep>(parts_->language, parts_->fusion, condition);
}

PairVectors Stage1Model::pair_vectors(const ImageFeatures* image, const TextFeatures* text) const {
  const at::NoGradGuard no_grad;
  PairVectors pairs;
  if (image != nullptr) pairs.image = fusion::pooled_image_tokens(image->states.back());
  if (text != nullptr) pairs.text = fusion::masked_mean(text->hidden_states, text->attention_mask);
  return pairs;
}

at::Tensor Stage1Model::pair_codes(const PairVectors& pairs, const at::Tensor& has_image,
                                   const at::Tensor& has_text) {
  return parts_->pair_code->forward(pairs.image, pairs.text, has_image, has_text);
}

void Stage1Model::observe_pairs(const PairVectors& pairs) {
  parts_->pair_code->observe(pairs.image, pairs.text);
}

memory::EpisodicMemory Stage1Model::memory() const { return parts_->memory; }

at::Tensor Stage1Model::itc_temperature() { return parts_->itc_temperature->value(); }
at::Tensor Stage1Model::maxsim_temperature() { return parts_->maxsim_temperature->value(); }

void Stage1Model::freeze_unused(const losses::LossesConfig& losses) {
  const bool matches = trains(losses, losses::Ability::kMatching);
  const bool remembers = trains(losses, losses::Ability::kMemory);
  const bool decodes = trains(losses, losses::Ability::kCaptions) || remembers;
  const bool embeds = trains(losses, losses::Ability::kEmbeddings);
  const bool embeds_tokens = trains(losses, losses::Ability::kTokenEmbeddings);
  if (!embeds) nn::freeze(*parts_->poolers);
  if (losses.itc.weight == 0) nn::freeze(*parts_->itc_temperature);
  if (!embeds_tokens) {
    nn::freeze(*parts_->token_projections);
    nn::freeze(*parts_->maxsim_temperature);
  }
  if (!matches) nn::freeze(*parts_->match_head);
  if (!decodes) {
    // A head of its own predicts tokens and nothing else; a tied one is the embedding.
    if (const auto* head = parts_->language->named_children().find("lm_head")) nn::freeze(**head);
  }
  if (!remembers) {
    nn::freeze(*parts_->pair_code);
    nn::freeze(*parts_->memory);
  }
  parts_->fusion->freeze_unused(
      {.encodes = embeds || embeds_tokens, .matches = matches, .decodes = decodes, .remembers = remembers});
}

Stage1Model::Gates Stage1Model::gates() const {
  std::vector<at::Tensor> text, image;
  for (std::int64_t level = 0; level < parts_->fusion->levels(); ++level) {
    text.push_back(parts_->fusion->text_cross_attention(level).gate.detach());
    image.push_back(parts_->fusion->image_block(level).cross_attention->gate.detach());
  }
  return {at::cat(text), at::cat(image)};
}

bool Stage1Model::has_lora() const { return parts_->lora.has_value(); }

void Stage1Model::set_lora_trainable(bool trainable) {
  if (parts_->lora) lora::set_lora_trainable(*parts_->vision, *parts_->lora, trainable);
}

void Stage1Model::set_training(bool training) {
  module_->train(training);
  if (!encoder_trains()) parts_->vision->eval();
}

bool Stage1Model::is_training() const { return module_->is_training(); }

void Stage1Model::to(c10::Device device) { module_->to(device); }

torch::nn::Module& Stage1Model::module() const { return *module_; }

std::vector<at::Tensor> Stage1Model::parameters() const { return module_->parameters(); }

torch::nn::Module& Stage1Model::objective_module(const std::string& name) const {
  for (const ObjectivePart& objective : parts_->objectives) {
    if (objective.name == name) return *objective.module;
  }
  TORCH_CHECK(false, "the model has no module of the objective '", name, "'");
}

Part Stage1Model::part_of(const std::string& parameter) const {
  if (beside_adapters_.count(parameter) != 0) return Part::kLora;
  const Part part = part_of_module_.at(parameter.substr(0, parameter.find('.')));
  if (part == Part::kBackbone && lora::is_lora_parameter(parameter)) return Part::kLora;
  if (part == Part::kFusion && parameter.ends_with(".gate")) return Part::kGates;
  return part;
}

std::vector<NamedParameter> Stage1Model::named_parts() const {
  std::vector<NamedParameter> list;
  for (const auto& item : module_->named_parameters()) {
    list.push_back({item.key(), item.value(), part_of(item.key())});
  }
  return list;
}

std::int64_t Stage1Model::trainable_parameters() const {
  std::int64_t count = 0;
  for (const at::Tensor& parameter : module_->parameters()) {
    if (parameter.requires_grad()) count += parameter.numel();
  }
  return count;
}

vision::VisionEncoder& Stage1Model::vision() const { return *parts_->vision; }
language::LanguageModel Stage1Model::language() const { return parts_->language; }
fusion::FusionTower Stage1Model::fusion() const { return parts_->fusion; }
const std::optional<lora::LoraOptions>& Stage1Model::lora() const { return parts_->lora; }
const std::optional<lora::LoraOptions>& Stage1Model::language_lora() const { return parts_->language_lora; }
const std::optional<lora::LoraOptions>& Stage1Model::fusion_lora() const { return parts_->fusion_lora; }
lora::TrainableChoice Stage1Model::trainable() const { return parts_->trainable; }

}  // namespace tessera::model
