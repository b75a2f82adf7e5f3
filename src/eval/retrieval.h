#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tessera::eval {

/// One direction of retrieval. Recalls are shares of the queries, from 0 to 1.
struct DirectionScores {
  double r1 = 0;           ///< the right answer ranks first
  double r5 = 0;           ///< among the first five
  double r10 = 0;          ///< among the first ten
  double median_rank = 0;  ///< 1 is best; of an even number of queries the mean of the two in the middle
};

struct RetrievalScores {
  DirectionScores image_to_text;  ///< a query an image; its best-ranked caption counts
  DirectionScores text_to_image;  ///< a query a caption
  std::int64_t images = 0;
  std::int64_t captions = 0;

  double mean_r1() const { return (image_to_text.r1 + text_to_image.r1) / 2; }
  double mean_r5() const { return (image_to_text.r5 + text_to_image.r5) / 2; }
  double mean_r10() const { return (image_to_text.r10 + text_to_image.r10) / 2; }
};

/// The scores of queries first … last-1 against all candidates: [last - first, candidates], float32 or
/// float64. Higher is better.
using ScoreRows = std::function<at::Tensor(std::int64_t first, std::int64_t last)>;

/// What retrieval ranks by: each direction has scores of its own, since those of MaxSim or of re-ranking
/// differ.
struct RetrievalScorer {
  ScoreRows image_to_text;  ///< a row an image, [·, M]
  ScoreRows text_to_image;  ///< a row a caption, [·, N]
};

/// Retrieval among all images and all captions. Images may have different numbers of captions.
///
/// The rank of an answer is 1 + the wrong candidates that score higher + those that score the same: a tie
/// never favours the right answer. (Other captions of the query's image are not wrong, and don't count.)
/// The N×M scores are never held at once, only slices of at most about 64 MB.
///
/// @param caption_image [M] int64, the row of the image that a caption belongs to
/// @param images        N
/// @throws Error where an index is out of range, an image has no caption, or a score is not finite
RetrievalScores retrieval_scores(const RetrievalScorer& scorer, const at::Tensor& caption_image,
                                 std::int64_t images);

/// Scores by the inner product of embeddings. They are summed in float64 and compared in float32, so that
/// candidates with the same embedding tie whatever order a matrix product adds in.
/// @param image [N, D] N >= 1
/// @param text  [M, D]
/// @throws Error where shapes disagree
RetrievalScorer embedding_scorer(const at::Tensor& image, const at::Tensor& text);

/// Both.
RetrievalScores retrieval_scores(const at::Tensor& image, const at::Tensor& text,
                                 const at::Tensor& caption_image);

/// image_to_text_r1, …_r5, …_r10, image_to_text_median_rank, the same for text_to_image, mean_r1, mean_r5,
/// mean_r10, images, captions.
nlohmann::json to_json(const RetrievalScores& scores);

}  // namespace tessera::eval
