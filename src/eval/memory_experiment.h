#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tessera::data {
class EvalLoader;
class Source;
}  // namespace tessera::data
namespace tessera::inference {
struct TrainedModel;
}

namespace tessera::eval {

struct MemoryExperimentOptions {
  std::int64_t pairs = 100;  ///< written; as many others are never written
  std::int64_t draws = 8;  ///< how often, each time with other pairs: of 100 alone, a share of 0.3 is ± 0.05
  std::uint64_t seed = 0;  ///< draws the pairs and the half that is forgotten
};

/// What a memory recalls, forgets and makes up. Held-out pairs are written (each image, that is
/// each image id, with the first of its captions) and asked for by their image alone; the read-out is decoded
/// without an image, so that what is right came through the memory or is guessed. Then half of what was
/// written is forgotten. All of this once a draw; figures are of all draws together.
///
/// Gives pairs, draws, capacity, code_size, `groups`, by name:
///   written        the pairs that are in the memory
///   never_written  as many others, asked of the same memory
///   kept           the half that is still there after the other was forgotten
///   forgotten      that other half, asked of the same memory
///   code_decoded   the pairs' own codes, decoded without a memory: the ceiling
///   query_decoded  the codes of the images alone, likewise: what of a picture needs no memory
///   empty_memory   the pairs asked of an empty memory
/// each with pairs, exact (share of answers that are the caption word for word), rouge_l, and, where every
/// sample has a `scene` (the shapes set), caption_truth (answers wholly true of it) and caption_facts
/// (scene_truth.h); the groups that read a memory also with the mean confidence, read_out_similarity (cosine
/// of the read-out and the pair's own code) and nearest_is_own (share whose nearest entry is their own pair).
/// Beside these `chance` for caption_truth and caption_facts, confidence_auc (how well the confidence tells
/// written from never-written pairs: 0.5 not at all, 1 without error), and `recalled_captions`, every answer.
///
/// @throws Error where the data holds fewer than twice as many images, or the model has no memory
nlohmann::json memory_experiment(const inference::TrainedModel& trained, const data::Source& dataset,
                                 data::EvalLoader& loader, const MemoryExperimentOptions& options);

/// Its groups as a table for a terminal.
std::string memory_table(const nlohmann::json& figures);

}  // namespace tessera::eval
