#include "inference/match_texts.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "config/config.h"
#include "core/autocast.h"
#include "core/finite.h"
#include "fusion/match_scores.h"
#include "inference/encode_inputs.h"
#include "language/tokenizer.h"
#include "losses/loss_abilities.h"
#include "losses/maxsim.h"
#include "model/stage1_model.h"

namespace tessera::inference {

namespace {

/// Where a score is wanted, its value for every text.
void set_scores(std::vector<TextMatch>& matches, std::optional<double> TextMatch::*score,
                const at::Tensor& values) {
  const at::Tensor doubles = values.flatten().to(at::kCPU, at::kDouble);
  std::vector<std::string> texts;
  for (const TextMatch& match : matches) texts.push_back(match.text);
  check_computed(doubles, "its score", quoted_texts(texts));
  for (std::size_t i = 0; i < matches.size(); ++i)
    matches[i].*score = doubles[static_cast<std::int64_t>(i)].item<double>();
}

std::vector<TextMatch> scores_of(const TrainedModel& trained, const model::ImageFeatures& image,
                                 const std::vector<std::string>& texts, const model::TextFeatures& text) {
  model::Stage1Model& model = trained.model;
  const losses::LossesConfig& losses = trained.config.losses;
  std::vector<TextMatch> matches;
  for (const std::string& one : texts) matches.push_back({.text = one});
  if (trains(losses, losses::Ability::kEmbeddings)) {
    set_scores(matches, &TextMatch::itc, at::matmul(text.embedding, image.embedding.t()));
  }
  if (trains(losses, losses::Ability::kTokenEmbeddings)) {
    const losses::MaxSimScores scores =
        losses::maxsim(model.patch_embeddings(image), model.token_embeddings(text), text.attention_mask);
    set_scores(matches, &TextMatch::maxsim_image_to_text, scores.image_to_text);
    set_scores(matches, &TextMatch::maxsim_text_to_image, scores.text_to_image);
  }
  if (trains(losses, losses::Ability::kMatching)) {
    const at::Tensor image_tokens = image.tokens.expand({text.lower.size(0), -1, -1});
    const at::Tensor logits = model.match_logits(image_tokens, text.lower, text.attention_mask);
    // Of two logits, the softmax of one is the sigmoid of their difference.
    set_scores(matches, &TextMatch::itm, fusion::match_scores(logits).to(at::kDouble).sigmoid());
  }
  return matches;
}

void sort_best_first(std::vector<TextMatch>& matches) {
  // Every text has the same scores, so that comparing optional values compares numbers.
  const auto better = [](const TextMatch& left, const TextMatch& right) {
    if (left.itm) return *left.itm > *right.itm;
    if (left.itc) return *left.itc > *right.itc;
    return left.maxsim_text_to_image > right.maxsim_text_to_image;
  };
  std::stable_sort(matches.begin(), matches.end(), better);
}

}  // namespace

std::vector<TextMatch> match_texts(const TrainedModel& trained, const model::ImageFeatures& image,
                                   const std::vector<std::string>& texts) {
  return match_texts(trained, std::vector<model::ImageFeatures>{image}, texts).front();
}

std::vector<std::vector<TextMatch>> match_texts(const TrainedModel& trained,
                                                const std::vector<model::ImageFeatures>& images,
                                                const std::vector<std::string>& texts) {
  for (const model::ImageFeatures& image : images)
    TORCH_CHECK(image.tokens.size(0) == 1, "match_texts: one image expected, got ", image.tokens.size(0));
  const c10::NoGradGuard no_grad;
  const AutocastScope autocast(trained.compute);
  const auto batch_size = static_cast<std::size_t>(trained.config.eval.batch_size);
  std::vector<std::vector<TextMatch>> matches(images.size());
  for (std::size_t first = 0; first < texts.size(); first += batch_size) {
    const std::size_t last = std::min(first + batch_size, texts.size());
    const std::vector<std::string> batch(texts.begin() + static_cast<std::ptrdiff_t>(first),
                                         texts.begin() + static_cast<std::ptrdiff_t>(last));
    const model::TextFeatures text = encode_texts(trained, batch);
    for (std::size_t i = 0; i < images.size(); ++i) {
      for (TextMatch& match : scores_of(trained, images[i], batch, text))
        matches[i].push_back(std::move(match));
    }
  }
  for (std::vector<TextMatch>& of_image : matches) sort_best_first(of_image);
  return matches;
}

}  // namespace tessera::inference
