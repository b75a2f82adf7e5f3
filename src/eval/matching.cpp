#include "eval/matching.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "core/random.h"
#include "eval/swapped_images.h"

namespace tessera::eval {

namespace {

using Rows = std::vector<std::int64_t>;

/// Fixed, so that every checkpoint is asked about the same pairs. The step is one that no training reaches:
/// evaluation shares the purpose with training's negatives, not their draws.
constexpr std::uint64_t kPairSeed = 11;
constexpr std::uint64_t kPairStep = std::numeric_limits<std::uint64_t>::max();

std::vector<Rows> captions_by_image(const at::Tensor& caption_image, std::int64_t images) {
  TORCH_CHECK(caption_image.dim() == 1 && caption_image.scalar_type() == at::kLong && images > 1,
              "matching: [M] int64 and at least two images expected, got ", caption_image.sizes(), " and ",
              images);
  std::vector<Rows> captions(static_cast<std::size_t>(images));
  const at::Tensor owners = caption_image.cpu().contiguous();
  for (std::int64_t caption = 0; caption < owners.size(0); ++caption) {
    const std::int64_t image = owners.const_data_ptr<std::int64_t>()[caption];
    TORCH_CHECK_INDEX(image >= 0 && image < images, "matching: image ", image, " of ", images);
    captions[static_cast<std::size_t>(image)].push_back(caption);
  }
  for (std::size_t image = 0; image < captions.size(); ++image) {
    if (captions[image].empty()) fail("matching: image {} has no caption", image);
  }
  return captions;
}

/// Collects pairs one by one.
class PairList {
 public:
  void add(std::int64_t image, std::int64_t caption, bool is_match) {
    images_.push_back(image);
    captions_.push_back(caption);
    labels_.push_back(is_match ? 1 : 0);
  }
  MatchingPairs pairs() const {
    return {at::tensor(images_, at::kLong), at::tensor(captions_, at::kLong),
            at::tensor(labels_, at::kLong).to(at::kBool)};
  }

 private:
  Rows images_, captions_, labels_;
};

double share(const at::Tensor& right) { return right.to(at::kDouble).mean().item<double>(); }

void add_figures(nlohmann::json& json, const std::string& kind, const MatchingPairs& pairs,
                 std::int64_t images, const MatchScorer& scorer, std::int64_t batch_size) {
  const MatchingAccuracy actual = matching_accuracy(pairs, scorer, batch_size);
  const MatchingAccuracy swapped = matching_accuracy(with_swapped_images(pairs, images), scorer, batch_size);
  json["itm_accuracy" + kind] = actual.accuracy;
  json["itm_accuracy" + kind + "_chance"] = 0.5;
  json["itm_accuracy" + kind + "_swapped"] = swapped.accuracy;
  json["itm_accuracy" + kind + "_of_matches"] = actual.accuracy_of_matches;
  json["itm_accuracy" + kind + "_of_others"] = actual.accuracy_of_others;
  json["itm_auc" + kind] = actual.auc;
  json["itm_auc" + kind + "_chance"] = 0.5;
  json["itm_auc" + kind + "_swapped"] = swapped.auc;
  json["itm_pairs" + kind] = actual.pairs;
}

}  // namespace

double area_under_curve(const at::Tensor& higher, const at::Tensor& lower) {
  const at::Tensor sorted = std::get<0>(lower.sort());
  const at::Tensor below = at::searchsorted(sorted, higher).to(at::kDouble);
  const at::Tensor not_above = at::searchsorted(sorted, higher, false, /*right=*/true).to(at::kDouble);
  return ((below + not_above) / 2).mean().item<double>() / static_cast<double>(lower.size(0));
}

MatchingPairs random_pairs(const at::Tensor& caption_image, std::int64_t images) {
  const std::vector<Rows> captions = captions_by_image(caption_image, images);
  const std::int64_t all = caption_image.size(0);
  PairList list;
  for (std::int64_t image = 0; image < images; ++image) {
    CounterRandom random(kPairSeed, RandomPurpose::kNegatives, kPairStep, static_cast<std::uint64_t>(image));
    const Rows& positives = captions[static_cast<std::size_t>(image)];
    list.add(image, positives[random.below(positives.size())], true);
    // The n-th caption that isn't among the image's own, which are in ascending order.
    auto wrong = static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(all) - positives.size()));
    for (const std::int64_t caption : positives) wrong += caption <= wrong ? 1 : 0;
    list.add(image, wrong, false);
  }
  return list.pairs();
}

MatchingPairs hardest_pairs(const at::Tensor& image, const at::Tensor& text,
                            const at::Tensor& caption_image) {
  const c10::NoGradGuard no_grad;
  const std::vector<Rows> captions = captions_by_image(caption_image, image.size(0));
  const at::Tensor owners = caption_image.cpu();
  PairList list;
  for (std::int64_t row = 0; row < image.size(0); ++row) {
    const Rows& positives = captions[static_cast<std::size_t>(row)];
    const at::Tensor wrong = owners.ne(row).nonzero().squeeze(1);
    const at::Tensor scores =
        at::mv(text.cpu().to(at::kFloat), image[row].cpu().to(at::kFloat)).index_select(0, wrong);
    const std::int64_t count = std::min(static_cast<std::int64_t>(positives.size()), wrong.size(0));
    const at::Tensor hardest = wrong.index_select(0, std::get<1>(scores.topk(count)));
    for (std::int64_t i = 0; i < count; ++i) {
      list.add(row, positives[static_cast<std::size_t>(i)], true);
      list.add(row, hardest[i].item<std::int64_t>(), false);
    }
  }
  return list.pairs();
}

MatchingPairs with_swapped_images(const MatchingPairs& pairs, std::int64_t images) {
  at::Tensor swapped = pairs.image.clone();
  auto* rows = swapped.mutable_data_ptr<std::int64_t>();
  std::transform(rows, rows + swapped.numel(), rows,
                 [&](std::int64_t image) { return swapped_image(image, images); });
  return {swapped, pairs.caption, pairs.is_match};
}

MatchingAccuracy matching_accuracy(const MatchingPairs& pairs, const MatchScorer& scorer,
                                   std::int64_t batch_size) {
  const c10::NoGradGuard no_grad;
  const std::int64_t count = pairs.image.size(0);
  TORCH_CHECK(count > 0 && batch_size > 0, "matching: pairs and a batch size expected, got ", count, " and ",
              batch_size);
  std::vector<at::Tensor> parts;
  for (std::int64_t first = 0; first < count; first += batch_size) {
    const std::int64_t last = std::min(first + batch_size, count);
    parts.push_back(
        scorer(pairs.image.slice(0, first, last), pairs.caption.slice(0, first, last)).cpu().to(at::kDouble));
    TORCH_CHECK(parts.back().dim() == 1 && parts.back().size(0) == last - first,
                "matching: a score a pair expected, got ", parts.back().sizes(), " for ", last - first,
                " pairs");
  }
  const at::Tensor scores = at::cat(parts);
  const at::Tensor broken = scores.isfinite().logical_not().nonzero();
  if (broken.size(0) > 0) {
    const auto pair = broken[0][0].item<std::int64_t>();
    fail("matching: the score of image {} and caption {} is {}", pairs.image[pair].item<std::int64_t>(),
         pairs.caption[pair].item<std::int64_t>(), scores[pair].item<double>());
  }
  const at::Tensor matches = scores.masked_select(pairs.is_match);
  const at::Tensor others = scores.masked_select(pairs.is_match.logical_not());
  TORCH_CHECK(matches.size(0) > 0 && others.size(0) > 0, "matching: right and wrong pairs expected");
  MatchingAccuracy result;
  result.accuracy_of_matches = share(matches.gt(0));
  result.accuracy_of_others = share(others.le(0));
  result.accuracy = (result.accuracy_of_matches + result.accuracy_of_others) / 2;
  result.auc = area_under_curve(matches, others);
  result.pairs = count;
  return result;
}

nlohmann::json matching_figures(const at::Tensor& image, const at::Tensor& text,
                                const at::Tensor& caption_image, const MatchScorer& scorer,
                                std::int64_t batch_size) {
  nlohmann::json json;
  const std::int64_t images = image.size(0);
  add_figures(json, "", random_pairs(caption_image, images), images, scorer, batch_size);
  add_figures(json, "_hard", hardest_pairs(image, text, caption_image), images, scorer, batch_size);
  return json;
}

}  // namespace tessera::eval
