#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <string>
#include <vector>

#include "fusion/fusion_tower.h"
#include "language/language_model.h"

namespace tessera::fusion {

inline constexpr std::int64_t kImageSize = 8, kTextSize = 12, kCodeSize = 6, kVocabulary = 17;

/// Values at which every part matters: attention away from uniform, norms away from 1.
inline void spread_weights(torch::nn::Module& module, std::uint64_t seed) {
  torch::manual_seed(seed);
  const torch::NoGradGuard no_grad;
  for (at::Tensor& parameter : module.parameters()) {
    if (parameter.dim() == 2) {
      parameter.normal_(0.0, 0.5);
    } else if (parameter.numel() > 1) {
      parameter.add_(torch::randn_like(parameter) * 0.2);
    }
  }
}

/// A language model of three layers, the upper two of which read images; in float64.
struct SmallTower {
  language::LanguageModel language{nullptr};
  FusionTower tower{nullptr};

  language::DecoderContext context(const at::Tensor& mask, std::int64_t tokens,
                                   language::AttentionMode mode) const {
    return language->context(mask, tokens, mode);
  }
  at::Tensor lower(const at::Tensor& ids, const at::Tensor& mask, language::AttentionMode mode) {
    return tower->lower_text(language, ids, context(mask, ids.size(1), mode));
  }
  at::Tensor attended(const at::Tensor& ids, const at::Tensor& mask, language::AttentionMode mode) {
    return tower->attended_text(language, lower(ids, mask, mode), context(mask, ids.size(1), mode));
  }
  FusedStates fused(const at::Tensor& image, const at::Tensor& ids, const at::Tensor& mask,
                    const PairRows& pairs = {}) {
    constexpr auto kMode = language::AttentionMode::kBidirectional;
    return tower->fused(language, image, lower(ids, mask, kMode), mask, context(mask, ids.size(1), kMode),
                        pairs);
  }
  at::Tensor unfused_text(const at::Tensor& ids, const at::Tensor& mask, language::AttentionMode mode) {
    return tower->upper_text(language, attended(ids, mask, mode), context(mask, ids.size(1), mode));
  }
  /// Causal states under a condition, after the final norm.
  at::Tensor caption(const at::Tensor& ids, const CaptionCondition& condition) {
    constexpr auto kMode = language::AttentionMode::kCausal;
    return tower->conditioned_text(language, attended(ids, {}, kMode), context({}, ids.size(1), kMode),
                                   tower->caption_keys(condition));
  }
  at::Tensor caption_logits(const at::Tensor& ids, const CaptionCondition& condition) {
    return language->logits(caption(ids, condition));
  }
  std::vector<at::Tensor> parameters() const {
    std::vector<at::Tensor> all = language->parameters();
    for (const at::Tensor& parameter : tower->parameters()) all.push_back(parameter);
    return all;
  }
};

/// @param gate its size at every level; text gates are positive, image gates negative
inline SmallTower small_tower(double gate, std::int64_t levels = 2) {
  torch::manual_seed(11);
  SmallTower small;
  small.language =
      language::LanguageModel(language::LanguageModelConfig::from_config({.vocab_size = kVocabulary,
                                                                          .hidden_size = kTextSize,
                                                                          .num_hidden_layers = levels + 1,
                                                                          .num_attention_heads = 2,
                                                                          .intermediate_size = 16,
                                                                          .max_position_embeddings = 24}),
                              /*seed=*/1);
  small.tower = FusionTower(
      FusionConfig{
          .levels = levels, .image_attention_heads = 2, .image_mlp_ratio = 2, .cross_attention_heads = 2},
      FusionTowerSizes{
          .image_size = kImageSize, .text_size = kTextSize, .code_size = kCodeSize, .read_tokens = 4});
  small.language->to(torch::kDouble);
  small.tower->to(torch::kDouble);
  spread_weights(*small.language, 2);
  spread_weights(*small.tower, 3);
  const torch::NoGradGuard no_grad;
  for (std::int64_t level = 0; level < levels; ++level) {
    small.tower->text_cross_attention(level).gate.fill_(gate);
    small.tower->image_block(level).cross_attention->gate.fill_(-gate);
  }
  return small;
}

inline at::Tensor random_ids(std::int64_t rows, std::int64_t tokens) {
  return torch::randint(5, kVocabulary, {rows, tokens}, torch::kLong);
}

/// [B, T]: row i has lengths[i] tokens.
inline at::Tensor right_padded(const std::vector<std::int64_t>& lengths, std::int64_t tokens) {
  return torch::arange(tokens).unsqueeze(0) < torch::tensor(lengths).unsqueeze(1);
}

inline at::Tensor normal(at::IntArrayRef shape) { return torch::randn(shape, torch::kDouble); }

inline bool close(const at::Tensor& left, const at::Tensor& right, double tolerance = 1e-10) {
  return torch::allclose(left, right, tolerance, tolerance);
}

/// Holds the gradients of a float64 scalar against central differences, along a random direction a tensor.
inline void expect_gradients(const std::function<at::Tensor()>& value,
                             const std::vector<at::Tensor>& leaves) {
  const auto gradients = torch::autograd::grad({value()}, leaves);
  const torch::NoGradGuard no_grad;
  constexpr double kStep = 1e-6;
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    const at::Tensor direction = torch::randn_like(leaves[i]);
    const at::Tensor before = leaves[i].detach().clone();
    leaves[i].add_(direction, kStep);
    const double above = value().item<double>();
    leaves[i].copy_(before).sub_(direction, kStep);
    const double below = value().item<double>();
    leaves[i].copy_(before);
    const double expected = (above - below) / (2 * kStep);
    const double found = (gradients[i] * direction).sum().item<double>();
    EXPECT_NEAR(found, expected, 1e-6 * (1 + std::abs(expected))) << "tensor " << i << " " << before.sizes();
  }
}

}  // namespace tessera::fusion
