#include "eval/pair_scores.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <memory>

#include "core/autocast.h"
#include "core/device.h"
#include "eval/encode.h"
#include "eval/rerank.h"
#include "fusion/match_scores.h"
#include "losses/maxsim.h"
#include "model/stage1_model.h"

namespace tessera::eval {

namespace {

constexpr std::int64_t kCaptionsAtOnce = 256;

/// The scores of many pairs, batch by batch, those with captions of about the same length together.
at::Tensor scores_of_pairs(const at::Tensor& images, const at::Tensor& captions, const EncodedTokens& tokens,
                           const MatchScorer& match, std::int64_t batch_size) {
  std::vector<std::int64_t> lengths;
  for (const at::Tensor& text : tokens.lower_text) lengths.push_back(text.size(0));
  const at::Tensor order = at::tensor(lengths, at::kLong).index_select(0, captions).argsort();
  at::Tensor scores = at::empty({images.size(0)});
  for (const at::Tensor& batch : order.split(batch_size)) {
    scores.index_copy_(0, batch,
                       match(images.index_select(0, batch), captions.index_select(0, batch)).to(at::kFloat));
  }
  return scores;
}

ScoreRows rows_of(const at::Tensor& matrix) {
  return [matrix](std::int64_t first, std::int64_t last) { return matrix.slice(0, first, last); };
}

}  // namespace

PaddedRows padded(const std::vector<at::Tensor>& rows, const at::Tensor& which) {
  const at::Tensor places = which.cpu().contiguous();
  const auto* place = places.const_data_ptr<std::int64_t>();
  std::vector<at::Tensor> chosen;
  std::vector<std::int64_t> lengths;
  for (std::int64_t i = 0; i < places.size(0); ++i) {
    chosen.push_back(rows.at(static_cast<std::size_t>(place[i])));
    lengths.push_back(chosen.back().size(0));
  }
  TORCH_CHECK(!chosen.empty(), "padded: at least one row expected");
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  return {at::pad_sequence(chosen, /*batch_first=*/true),
          at::arange(longest) < at::tensor(lengths, at::kLong).unsqueeze(1)};
}

MatchScorer match_scorer(model::Stage1Model& model, const EncodedTokens& tokens, const Compute& compute) {
  TORCH_CHECK(tokens.image_tokens.defined(),
              "match scorer: a set encoded with EncodeDetail::kTokens expected");
  return [&model, &tokens, compute](const at::Tensor& image_rows, const at::Tensor& caption_rows) {
    const c10::NoGradGuard no_grad;
    const AutocastScope autocast(compute);
    const PaddedRows text = padded(tokens.lower_text, caption_rows);
    const at::Tensor logits =
        model.match_logits(tokens.image_tokens.index_select(0, image_rows).to(compute.device),
                           text.values.to(compute.device), text.mask.to(compute.device));
    return fusion::match_scores(logits).to(at::kFloat).cpu();
  };
}

RetrievalScorer maxsim_scorer(const EncodedTokens& tokens, const Compute& compute) {
  const c10::NoGradGuard no_grad;
  TORCH_CHECK(tokens.patches.defined(), "MaxSim scorer: a set encoded with EncodeDetail::kTokens expected");
  const at::Tensor patches = tokens.patches.to(compute.device);
  const auto captions = static_cast<std::int64_t>(tokens.text_tokens.size());
  std::vector<at::Tensor> image_to_text, text_to_image;
  for (std::int64_t first = 0; first < captions; first += kCaptionsAtOnce) {
    const at::Tensor which = at::arange(first, std::min(first + kCaptionsAtOnce, captions));
    const PaddedRows text = padded(tokens.text_tokens, which);
    const losses::MaxSimScores scores =
        losses::maxsim(patches, text.values.to(compute.device), text.mask.to(compute.device));
    image_to_text.push_back(scores.image_to_text.cpu());
    text_to_image.push_back(scores.text_to_image.cpu());
  }
  return {rows_of(at::cat(image_to_text, 1)), rows_of(at::cat(text_to_image, 1).t())};
}

RetrievalScorer match_reranked(const RetrievalScorer& first, const EncodedTokens& tokens,
                               const MatchScorer& match, std::int64_t k, std::int64_t batch_size) {
  const c10::NoGradGuard no_grad;
  const std::int64_t images = tokens.image_tokens.size(0);
  const auto captions = static_cast<std::int64_t>(tokens.lower_text.size());
  if (k == 0) return first;
  const at::Tensor of_images = top_candidates(first.image_to_text, images, captions, k);    // [N, k] captions
  const at::Tensor of_captions = top_candidates(first.text_to_image, captions, images, k);  // [M, k] images
  // A pair's number is image · M + caption.
  const at::Tensor from_images = at::arange(images).unsqueeze(1) * captions + of_images;
  const at::Tensor from_captions = of_captions * captions + at::arange(captions).unsqueeze(1);
  const auto [pairs, inverse] = at::_unique(at::cat({from_images.flatten(), from_captions.flatten()}),
                                            /*sorted=*/true, /*return_inverse=*/true);
  const at::Tensor scores =
      scores_of_pairs(pairs.div(captions, "floor"), pairs.remainder(captions), tokens, match, batch_size)
          .index_select(0, inverse);
  const std::int64_t split = from_images.numel();
  return {reranked(first.image_to_text, {of_images, scores.slice(0, 0, split).view_as(of_images)}),
          reranked(first.text_to_image, {of_captions, scores.slice(0, split).view_as(of_captions)})};
}

}  // namespace tessera::eval
