#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/logging.h"

namespace tessera::data {
class Source;
}
namespace tessera::inference {
struct TrainedModel;
}

namespace tessera::eval {

struct EncodedSet;

// The suites of stage1_eval. Each gives its figures as one JSON object under flat snake_case names, for one
// file or for all suites together.

struct RetrievalSuiteOptions {
  std::int64_t rerank_top_k = 16;  ///< candidates of a query that ITM looks at; 0: none
};

/// Retrieval by ITC (to_json of retrieval.h); by MaxSim, the same names after maxsim_; by ITC with the best
/// re-ranked by ITM, after reranked_. The latter two only where the model was trained for them.
/// @param set  encoded with EncodeDetail::kTokens
nlohmann::json retrieval_suite(const inference::TrainedModel& trained, const EncodedSet& set,
                               const RetrievalSuiteOptions& options);

/// matching_figures of the set (matching.h).
/// @param set  encoded with EncodeDetail::kTokens
/// @throws Error where the model was not trained to match
nlohmann::json matching_suite(const inference::TrainedModel& trained, const EncodedSet& set);

struct CaptionsSuiteOptions {
  std::int64_t beams = 1;  ///< 1: greedy
};

/// A caption of every image, held against those of the set: caption_scores, captions_distinct (share that is
/// said of one image only), caption_words (mean length), captions_unfinished (share cut off at the longest
/// length), and `generated_captions`, a list of {key, caption, references}. Where every sample has a `scene`
/// (the shapes set) also the figures of scene_truth.h with their chance and swapped levels, and for each
/// caption facts_true and wholly_true.
/// @param set  encoded with EncodeDetail::kTokens from `dataset`
/// @throws Error where the model was not trained to caption
nlohmann::json captions_suite(const inference::TrainedModel& trained, const EncodedSet& set,
                              const data::Source& dataset, const CaptionsSuiteOptions& options);

struct ZeroShotSuiteOptions {
  std::filesystem::path images;          ///< FOLDER/CLASS/IMAGE
  std::filesystem::path classes_file;    ///< empty: classes are called what their folders are
  std::filesystem::path templates_file;  ///< empty: a default list
};

/// Classification of a folder of images by the prompts of its classes (zero_shot.h), and zero_shot_broken,
/// the number of images that could not be read.
/// @throws Error where more than data.max_broken_fraction of the images can't be read
nlohmann::json zero_shot_suite(const inference::TrainedModel& trained, const ZeroShotSuiteOptions& options,
                               const Logger& logger);

}  // namespace tessera::eval
