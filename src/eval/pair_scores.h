#pragma once

#include <ATen/core/Tensor.h>

#include "eval/matching.h"
#include "eval/retrieval.h"

namespace tessera {
struct Compute;
}
namespace tessera::model {
class Stage1Model;
}

namespace tessera::eval {

struct EncodedTokens;

/// Rows of different lengths as one batch, zeros behind the shorter ones.
struct PaddedRows {
  at::Tensor values;  ///< [n, T, C]
  at::Tensor mask;    ///< [n, T] bool
};

/// @param which [n] int64, places in `rows`
PaddedRows padded(const std::vector<at::Tensor>& rows, const at::Tensor& which);

/// The matching head over pairs of a set: the fused pass from the states that encode_set kept. Holds
/// references to model and tokens.
MatchScorer match_scorer(model::Stage1Model& model, const EncodedTokens& tokens, const Compute& compute);

/// MaxSim between all images and all captions of a set (losses/maxsim.h). Both [N, M] matrices are computed
/// at once and held.
RetrievalScorer maxsim_scorer(const EncodedTokens& tokens, const Compute& compute);

/// The scores of `first`, each query's k best candidates re-ranked by `match`. A pair that both directions
/// ask for is scored once.
RetrievalScorer match_reranked(const RetrievalScorer& first, const EncodedTokens& tokens,
                               const MatchScorer& match, std::int64_t k, std::int64_t batch_size);

}  // namespace tessera::eval
