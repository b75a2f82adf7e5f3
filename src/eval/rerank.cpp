#include "eval/rerank.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

#include "core/error.h"

namespace tessera::eval {

namespace {

constexpr std::int64_t kRowsAtOnce = 256;

/// [Q, k] float64: each score's place among the different scores of its row, 0 for the lowest; equal ones
/// share it. Unlike the scores themselves these can be added to others without a rounding that makes or
/// breaks a tie.
at::Tensor dense_ranks(const at::Tensor& scores) {
  const auto [sorted, order] = scores.sort(1);
  at::Tensor steps = at::zeros(scores.sizes(), at::kDouble);
  const std::int64_t k = scores.size(1);
  if (k > 1) steps.slice(1, 1).copy_(sorted.slice(1, 1).ne(sorted.slice(1, 0, k - 1)));
  return at::empty_like(steps).scatter_(1, order, steps.cumsum(1));
}

void check_finite(const Rescored& rescored) {
  const at::Tensor broken = rescored.scores.isfinite().logical_not().nonzero();
  if (broken.size(0) == 0) return;
  const auto query = broken[0][0].item<std::int64_t>();
  const auto place = broken[0][1].item<std::int64_t>();
  fail("re-ranking: the score of query {} and candidate {} is {}", query,
       rescored.candidates[query][place].item<std::int64_t>(), rescored.scores[query][place].item<double>());
}

}  // namespace

at::Tensor top_candidates(const ScoreRows& scores, std::int64_t queries, std::int64_t candidates,
                          std::int64_t k) {
  const c10::NoGradGuard no_grad;
  TORCH_CHECK(k >= 0 && queries > 0, "top candidates: k of at least 0 and a query expected, got ", k, " and ",
              queries);
  std::vector<at::Tensor> parts;
  for (std::int64_t first = 0; first < queries; first += kRowsAtOnce) {
    const at::Tensor rows = scores(first, std::min(first + kRowsAtOnce, queries));
    parts.push_back(std::get<1>(rows.topk(std::min(k, candidates), 1)).cpu());
  }
  return at::cat(parts);
}

ScoreRows reranked(const ScoreRows& scores, const Rescored& rescored) {
  const c10::NoGradGuard no_grad;
  TORCH_CHECK(rescored.candidates.dim() == 2 && rescored.candidates.sizes() == rescored.scores.sizes(),
              "re-ranking: candidates and scores [Q, k] expected, got ", rescored.candidates.sizes(), " and ",
              rescored.scores.sizes());
  if (rescored.candidates.size(1) == 0) return scores;
  check_finite(rescored);
  const at::Tensor candidates = rescored.candidates;
  const at::Tensor ranks = dense_ranks(rescored.scores.cpu());
  return [scores, candidates, ranks](std::int64_t first, std::int64_t last) {
    const at::Tensor rows = scores(first, last).to(at::kDouble);
    const at::Tensor above_all = rows.amax(1, true) + 1;
    return rows.scatter(1, candidates.slice(0, first, last), above_all + ranks.slice(0, first, last));
  };
}

}  // namespace tessera::eval
