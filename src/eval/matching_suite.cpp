#include <nlohmann/json.hpp>

#include "config/config.h"
#include "core/error.h"
#include "eval/encode.h"
#include "eval/matching.h"
#include "eval/pair_scores.h"
#include "eval/suites.h"
#include "inference/trained_model.h"
#include "losses/loss_abilities.h"

namespace tessera::eval {

nlohmann::json matching_suite(const inference::TrainedModel& trained, const EncodedSet& set) {
  require_trained(trained.config.losses, losses::Ability::kMatching, "matching");
  if (set.images() < 2) fail("matching: expected at least two images, found {}", set.images());
  return matching_figures(set.image, set.text, set.caption_image,
                          match_scorer(trained.model, set.tokens, trained.compute),
                          trained.config.eval.batch_size);
}

}  // namespace tessera::eval
