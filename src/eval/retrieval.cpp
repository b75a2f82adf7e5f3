#include "eval/retrieval.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <c10/util/StringUtil.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "core/error.h"

namespace tessera::eval {

namespace {

constexpr std::int64_t kSliceBytes = std::int64_t{64} << 20;

/// Rows of a slice whose float64 scores against `candidates` stay within kSliceBytes.
std::int64_t slice_rows(std::int64_t candidates) {
  const auto row_bytes = candidates * static_cast<std::int64_t>(sizeof(double));
  return std::max<std::int64_t>(1, kSliceBytes / row_bytes);
}

void check_embeddings(const at::Tensor& image, const at::Tensor& text) {
  if (image.dim() != 2 || image.size(0) == 0) {
    fail("retrieval: image embeddings: expected [N >= 1, D], found {}", c10::str(image.sizes()));
  }
  if (text.dim() != 2 || text.size(0) == 0 || text.size(1) != image.size(1)) {
    fail("retrieval: text embeddings: expected [M >= 1, {}], found {}", image.size(1),
         c10::str(text.sizes()));
  }
}

void check_caption_images(const at::Tensor& caption_image, std::int64_t images) {
  if (caption_image.dim() != 1 || caption_image.size(0) == 0 || caption_image.scalar_type() != at::kLong) {
    fail("retrieval: images of the captions: expected [M >= 1] int64, found {} {}",
         c10::str(caption_image.sizes()), c10::toString(caption_image.scalar_type()));
  }
  const at::Tensor outside = caption_image.lt(0).logical_or(caption_image.ge(images)).nonzero();
  if (outside.size(0) > 0) {
    const auto caption = outside[0][0].item<std::int64_t>();
    fail("retrieval: caption {}: expected an image from 0 to {}, found {}", caption, images - 1,
         caption_image[caption].item<std::int64_t>());
  }
  const at::Tensor without = caption_image.bincount({}, images).eq(0).nonzero();
  if (without.size(0) > 0) {
    fail("retrieval: image {} has no caption", without[0][0].item<std::int64_t>());
  }
}

void check_finite(const at::Tensor& scores, std::int64_t first, const char* query, const char* candidate) {
  const at::Tensor broken = scores.isfinite().logical_not();
  if (broken.any().item<bool>()) {
    const at::Tensor place = broken.nonzero()[0];
    const auto row = place[0].item<std::int64_t>();
    const auto column = place[1].item<std::int64_t>();
    fail("retrieval: the score of {} {} and {} {} is {}", query, first + row, candidate, column,
         scores[row][column].item<double>());
  }
}

/// Scores of a slice of the queries, whole and finite.
at::Tensor checked_rows(const ScoreRows& rows, std::int64_t first, std::int64_t last, std::int64_t candidates,
                        const char* query, const char* candidate) {
  const at::Tensor scores = rows(first, last);
  TORCH_CHECK(scores.dim() == 2 && scores.size(0) == last - first && scores.size(1) == candidates &&
                  scores.is_floating_point(),
              "retrieval: scores [", last - first, ", ", candidates, "] expected, got ", scores.sizes(), " ",
              scores.scalar_type());
  check_finite(scores, first, query, candidate);
  return scores;
}

/// [N] int64: of each image, the rank of its best caption.
at::Tensor ranks_of_images(const ScoreRows& score_rows, const at::Tensor& caption_image,
                           std::int64_t images) {
  std::vector<at::Tensor> ranks;
  const std::int64_t captions = caption_image.size(0);
  const std::int64_t rows = slice_rows(captions);
  for (std::int64_t first = 0; first < images; first += rows) {
    const std::int64_t last = std::min(first + rows, images);
    const at::Tensor scores = checked_rows(score_rows, first, last, captions, "image", "caption");
    const at::Tensor relevant =
        at::arange(first, last, caption_image.options()).unsqueeze(1) == caption_image;
    const at::Tensor best =
        scores.masked_fill(relevant.logical_not(), -std::numeric_limits<float>::infinity()).amax(1, true);
    ranks.push_back(1 + scores.ge(best).logical_and(relevant.logical_not()).sum(1));
  }
  return at::cat(ranks);
}

/// [M] int64: of each caption, the rank of its image.
at::Tensor ranks_of_captions(const ScoreRows& score_rows, const at::Tensor& caption_image,
                             std::int64_t images) {
  std::vector<at::Tensor> ranks;
  const std::int64_t captions = caption_image.size(0);
  const std::int64_t rows = slice_rows(images);
  for (std::int64_t first = 0; first < captions; first += rows) {
    const std::int64_t last = std::min(first + rows, captions);
    const at::Tensor scores = checked_rows(score_rows, first, last, images, "caption", "image");
    const at::Tensor relevant_score = scores.gather(1, caption_image.slice(0, first, last).unsqueeze(1));
    // The right image itself is the 1 in "1 + wrong ones at least as high".
    ranks.push_back(scores.ge(relevant_score).sum(1));
  }
  return at::cat(ranks);
}

DirectionScores summarize(const at::Tensor& ranks) {
  const auto recall = [&](std::int64_t k) { return ranks.le(k).to(at::kDouble).mean().item<double>(); };
  const at::Tensor sorted = std::get<0>(ranks.sort()).to(at::kDouble);
  const std::int64_t count = sorted.size(0);
  const double median = (sorted[(count - 1) / 2] + sorted[count / 2]).item<double>() / 2;
  return {recall(1), recall(5), recall(10), median};
}

void add_direction(nlohmann::json& json, const std::string& name, const DirectionScores& scores) {
  json[name + "_r1"] = scores.r1;
  json[name + "_r5"] = scores.r5;
  json[name + "_r10"] = scores.r10;
  json[name + "_median_rank"] = scores.median_rank;
}

}  // namespace

RetrievalScores retrieval_scores(const RetrievalScorer& scorer, const at::Tensor& caption_image,
                                 std::int64_t images) {
  const c10::NoGradGuard no_grad;
  check_caption_images(caption_image, images);
  return {summarize(ranks_of_images(scorer.image_to_text, caption_image, images)),
          summarize(ranks_of_captions(scorer.text_to_image, caption_image, images)), images,
          caption_image.size(0)};
}

RetrievalScorer embedding_scorer(const at::Tensor& image, const at::Tensor& text) {
  check_embeddings(image, text);
  const at::Tensor images = image.to(at::kDouble);
  const at::Tensor texts = text.to(at::kDouble);
  const auto rows_of = [](const at::Tensor& queries, const at::Tensor& candidates) {
    return [queries, candidates](std::int64_t first, std::int64_t last) {
      return at::matmul(queries.slice(0, first, last), candidates.t()).to(at::kFloat);
    };
  };
  return {rows_of(images, texts), rows_of(texts, images)};
}

RetrievalScores retrieval_scores(const at::Tensor& image, const at::Tensor& text,
                                 const at::Tensor& caption_image) {
  const c10::NoGradGuard no_grad;
  const RetrievalScorer scorer = embedding_scorer(image, text);
  if (caption_image.dim() != 1 || caption_image.size(0) != text.size(0)) {
    fail("retrieval: images of the captions: expected [{}] int64, found {}", text.size(0),
         c10::str(caption_image.sizes()));
  }
  return retrieval_scores(scorer, caption_image, image.size(0));
}

nlohmann::json to_json(const RetrievalScores& scores) {
  nlohmann::json json;
  add_direction(json, "image_to_text", scores.image_to_text);
  add_direction(json, "text_to_image", scores.text_to_image);
  json["mean_r1"] = scores.mean_r1();
  json["mean_r5"] = scores.mean_r5();
  json["mean_r10"] = scores.mean_r10();
  json["images"] = scores.images;
  json["captions"] = scores.captions;
  return json;
}

}  // namespace tessera::eval
