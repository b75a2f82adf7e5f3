#include "language/language_model.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <fmt/ranges.h>

#include "core/error.h"
#include "core/finite.h"
#include "core/weights_file.h"
#include "ops/linear.h"

namespace tessera::language {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

const LanguageModelConfig& checked(const LanguageModelConfig& config) {
  config.check("language model");
  return config;
}

/// Everything that is wrong with the weights, one line each; empty where nothing is.
std::string mismatches(const TensorMap& parameters, const TensorMap& weights) {
  std::string problems;
  std::vector<std::string> missing, unexpected;
  for (const auto& [name, parameter] : parameters) {
    const auto found = weights.find(name);
    if (found == weights.end()) {
      missing.push_back(name);
      problems += fmt::format("\n  missing: {}", name);
    } else if (found->second.sizes() != parameter.sizes()) {
      problems += fmt::format("\n  shape of {}: expected [{}], found [{}]", name,
                              fmt::join(parameter.sizes(), ", "), fmt::join(found->second.sizes(), ", "));
    } else if (!found->second.is_floating_point()) {
      problems += fmt::format("\n  dtype of {}: expected a floating-point one, found {}", name,
                              c10::toString(found->second.scalar_type()));
    }
  }
  for (const auto& [name, weight] : weights) {
    if (parameters.count(name) != 0) continue;
    unexpected.push_back(name);
    problems += fmt::format("\n  unexpected: {}", name);
  }
  return problems + hint_about_prefix(missing, unexpected);
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
    lm_head_ = register_module(
        "lm_head",
        torch::nn::Linear(torch::nn::LinearOptions(config.hidden_size, config.vocab_size).bias(false)));
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
  return ops::linear(hidden_states, lm_head_.is_empty() ? model_->embed_tokens->weight : lm_head_->weight);
}

TensorMap language_model_weights(const LanguageModel& model) {
  TensorMap weights;
  for (const auto& parameter : model->named_parameters())
    weights[parameter.key()] = parameter.value().detach();
  return weights;
}

void load_language_model_weights(LanguageModel& model, const TensorMap& weights, const std::string& source) {
  at::NoGradGuard no_grad;
  const TensorMap parameters = language_model_weights(model);
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
  const std::string problems = mismatches(parameters, given);
  if (!problems.empty()) fail("{}: the weights don't fit the language model:{}", source, problems);
  for (const auto& [name, weight] : given)
    check_weights(weight, fmt::format("{}: tensor '{}'", source, name));
  for (const auto& [name, parameter] : parameters) parameter.copy_(given.at(name));
}

}  // namespace tessera::language
