#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "eval/retrieval.h"

namespace tessera::eval {

/// The candidates of each query that are looked at a second time.
struct Rescored {
  at::Tensor candidates;  ///< [Q, k] int64, different ones in a row
  at::Tensor scores;      ///< [Q, k] of the second look; higher is better
};

/// The k best candidates of each query, [Q, min(k, candidates)] int64. Which of equally good ones are taken
/// at the end of the list is not said.
at::Tensor top_candidates(const ScoreRows& scores, std::int64_t queries, std::int64_t candidates,
                          std::int64_t k);

/// Scores that order a query's rescored candidates by their second score and put them before all others,
/// which keep the order of `scores` (ALBEF, Li et al. 2021, section 4: ITM re-ranks what ITC found). Equal
/// second scores stay equal, so that retrieval_scores counts such ties against the right answer. With k = 0
/// they are `scores` itself.
/// @throws Error where a second score is not finite
ScoreRows reranked(const ScoreRows& scores, const Rescored& rescored);

}  // namespace tessera::eval
