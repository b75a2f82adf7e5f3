#include <nlohmann/json.hpp>

#include "config/config.h"
#include "core/error.h"
#include "eval/encode.h"
#include "eval/pair_scores.h"
#include "eval/rerank.h"
#include "eval/retrieval.h"
#include "eval/suites.h"
#include "inference/trained_model.h"
#include "losses/loss_abilities.h"

namespace tessera::eval {

namespace {

void add(nlohmann::json& json, const std::string& prefix, const RetrievalScores& scores) {
  const nlohmann::json figures = to_json(scores);
  for (const auto& [name, value] : figures.items()) json[prefix + name] = value;
}

}  // namespace

nlohmann::json retrieval_suite(const inference::TrainedModel& trained, const EncodedSet& set,
                               const RetrievalSuiteOptions& options) {
  const RetrievalScorer itc = embedding_scorer(set.image, set.text);
  nlohmann::json json;
  const auto add_scores = [&](const std::string& prefix, const RetrievalScorer& scorer) {
    add(json, prefix, retrieval_scores(scorer, set.caption_image, set.images()));
  };
  add_scores("", itc);
  if (trains(trained.config.losses, losses::Ability::kTokenEmbeddings)) {
    add_scores("maxsim_", maxsim_scorer(set.tokens, trained.compute));
  }
  if (trains(trained.config.losses, losses::Ability::kMatching) && options.rerank_top_k > 0) {
    const MatchScorer match = match_scorer(trained.model, set.tokens, trained.compute);
    add_scores("reranked_",
               match_reranked(itc, set.tokens, match, options.rerank_top_k, trained.config.eval.batch_size));
    json["rerank_top_k"] = options.rerank_top_k;
  }
  for (const char* prefix : {"maxsim_", "reranked_"}) {  // the same as those of ITC
    json.erase(std::string(prefix) + "images");
    json.erase(std::string(prefix) + "captions");
  }
  return json;
}

}  // namespace tessera::eval
