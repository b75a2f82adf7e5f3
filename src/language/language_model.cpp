#include "language/language_model.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "core/error.h"
#include "language/llama_names.h"
#include "lora/lora.h"
#include "nn/state_dict.h"
#include "ops/linear.h"

namespace tessera::language {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

const LanguageModelConfig& checked(const LanguageModelConfig& config) {
  config.check("language model");
  return config;
}

}  // namespace

DecoderImpl::DecoderImpl(const LanguageModelConfig& config) {
  auto options = torch::nn::EmbeddingOptions(config.vocab_size, config.hidden_size);
  // As in Hugging Face, the pad token's embedding gets no gradient from where it is read.
  if (config.pad_token_id >= 0) options.padding_idx(config.pad_token_id);
  embed_tokens = register_module("embed_tokens", torch::nn::Embedding(options));
  layers = register_module("layers", torch::nn::ModuleList());
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) layers->push_back(DecoderLayer(config));
  norm = register_module("norm", RmsNorm(config.hidden_size, config.rms_norm_eps));
}

LanguageModelImpl::LanguageModelImpl(const LanguageModelConfig& config, std::uint64_t seed)
    : config_(checked(config)) {
  model_ = register_module("model", Decoder(config));
  if (!config.tie_word_embeddings) {
    lm_head_ =
        register_module("lm_head", nn::Linear(config.hidden_size, config.vocab_size, /*with_bias=*/false));
  }
  initialise(seed);
}

void LanguageModelImpl::initialise(std::uint64_t seed) {
  at::NoGradGuard no_grad;
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  for (auto& parameter : named_parameters()) {
    if (parameter.value().dim() == 2) parameter.value().normal_(0.0, config_.initializer_range, generator);
  }
  if (config_.pad_token_id >= 0) model_->embed_tokens->weight[config_.pad_token_id].zero_();
}

at::Tensor LanguageModelImpl::embed(const at::Tensor& input_ids) {
  TORCH_CHECK(input_ids.dim() == 2 && input_ids.scalar_type() == at::kLong, "input_ids is [B, T] int64, got ",
              input_ids.sizes(), " ", input_ids.scalar_type());
  return model_->embed_tokens->forward(input_ids);
}

DecoderContext LanguageModelImpl::context(const at::Tensor& attention_mask, std::int64_t tokens,
                                          AttentionMode mode, std::int64_t first_position) const {
  return make_decoder_context(config_, attention_mask, tokens, mode, model_->embed_tokens->weight,
                              first_position);
}

const lora::ModuleNames& LanguageModelImpl::module_names() const { return llama_module_names(); }

DecoderLayerImpl& LanguageModelImpl::layer(std::int64_t index) {
  return model_->layers->at<DecoderLayerImpl>(index);
}

at::Tensor LanguageModelImpl::final_norm(const at::Tensor& hidden_states) {
  return model_->norm->forward(hidden_states);
}

at::Tensor LanguageModelImpl::hidden_states(const at::Tensor& input_ids, const at::Tensor& attention_mask,
                                            AttentionMode mode) {
  TORCH_CHECK(!attention_mask.defined() || attention_mask.sizes() == input_ids.sizes(),
              "attention_mask has the shape of input_ids, ", input_ids.sizes(), ", got ",
              attention_mask.sizes());
  at::Tensor hidden = embed(input_ids);
  const DecoderContext shared = context(attention_mask, input_ids.size(1), mode);
  for (std::int64_t i = 0; i < num_layers(); ++i) hidden = layer(i).forward(hidden, shared);
  return final_norm(hidden);
}

at::Tensor LanguageModelImpl::logits(const at::Tensor& hidden_states) {
  return lm_head_.is_empty() ? ops::linear(hidden_states, model_->embed_tokens->weight)
                             : lm_head_->forward(hidden_states);
}

TensorMap language_model_weights(const LanguageModel& model) {
  TensorMap weights;
  for (const auto& parameter : model->named_parameters()) {
    if (!lora::is_lora_parameter(parameter.key())) weights[parameter.key()] = parameter.value().detach();
  }
  return weights;
}

void load_language_model_weights(LanguageModel& model, const TensorMap& weights, const std::string& source) {
  TensorMap given = weights;
  // Older transformers wrote down what follows from rope_theta.
  std::erase_if(given,
                [](const auto& item) { return item.first.ends_with(".self_attn.rotary_emb.inv_freq"); });
  if (model->config().tie_word_embeddings && given.count(kHead) != 0 && given.count(kEmbedding) != 0) {
    if (!at::equal(given.at(kHead), given.at(kEmbedding))) {
      fail("{}: the model's embedding is tied (tie_word_embeddings), but {} differs from {}", source, kHead,
           kEmbedding);
    }
    given.erase(kHead);
  }
  nn::load_state_dict(language_model_weights(model), given, {}, source);
}

}  // namespace tessera::language
