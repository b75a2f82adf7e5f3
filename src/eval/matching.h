#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tessera::eval {

/// How much more the matching head says "match" than "no match" of some pairs: the difference of its two
/// logits.
/// @param image_rows, caption_rows  [n] int64, the pair's place in the set
/// @return [n] float
using MatchScorer = std::function<at::Tensor(const at::Tensor& image_rows, const at::Tensor& caption_rows)>;

/// Pairs to be told apart, half of them right.
struct MatchingPairs {
  at::Tensor image;     ///< [P] int64
  at::Tensor caption;   ///< [P] int64
  at::Tensor is_match;  ///< [P] bool
};

/// Each image with one of its captions and with one of another image, both drawn uniformly, a function of the
/// set's size alone.
/// @param caption_image [M] int64, row of the image that a caption belongs to; every image has at least one
/// @param images        N >= 2
MatchingPairs random_pairs(const at::Tensor& caption_image, std::int64_t images);

/// Each image with every caption of its own, and with as many of the wrong captions that are most similar to
/// it, by the inner product of embeddings. (As many as it has captions, so that right and wrong are balanced
/// and no pair comes twice. Fewer of both where there are too few wrong ones.)
/// @param image [N, E], @param text [M, E] embeddings; N >= 2
MatchingPairs hardest_pairs(const at::Tensor& image, const at::Tensor& text, const at::Tensor& caption_image);

/// The probability that a value of `higher` exceeds one of `lower`, ties counting half (Mann-Whitney).
/// @param higher [n], @param lower [m], of one dtype; neither empty
double area_under_curve(const at::Tensor& higher, const at::Tensor& lower);

struct MatchingAccuracy {
  double accuracy = 0;  ///< mean of the two below: 0.5 for a head that says the same of every pair
  double accuracy_of_matches = 0;
  double accuracy_of_others = 0;
  double auc =
      0;  ///< share of (right, wrong) combinations of which the right one scores higher; ties count ½
  std::int64_t pairs = 0;
};

/// A pair counts as match where its score is above 0.
/// @throws Error where a score is not finite
MatchingAccuracy matching_accuracy(const MatchingPairs& pairs, const MatchScorer& scorer,
                                   std::int64_t batch_size);

/// The control: the same pairs under the same labels, with each image replaced by swapped_image.
MatchingPairs with_swapped_images(const MatchingPairs& pairs, std::int64_t images);

/// itm_accuracy, itm_accuracy_chance, itm_accuracy_swapped, itm_auc, itm_pairs and more, and the same for
/// itm_accuracy_hard, over both kinds of pairs.
/// @param scorer  called with at most batch_size pairs at a time
nlohmann::json matching_figures(const at::Tensor& image, const at::Tensor& text,
                                const at::Tensor& caption_image, const MatchScorer& scorer,
                                std::int64_t batch_size);

}  // namespace tessera::eval
