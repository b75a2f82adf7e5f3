#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "fusion/fusion_inputs.h"
#include "inference/trained_model.h"
#include "language/search.h"

namespace tessera::inference {

struct GeneratedCaption {
  std::string text;
  bool finished = false;        ///< by the end token; otherwise it was cut off at the longest length
  double log_probability = 0;   ///< of what was generated, by the model; in nats
  std::int64_t new_tokens = 0;  ///< generated, without the end token
};

struct CaptionOptions {
  language::SearchOptions search;          ///< its max_tokens is not read
  std::string prompt;                      ///< what every caption begins with
  std::optional<std::int64_t> max_tokens;  ///< new ones; otherwise what prompt leaves of language.max_tokens

  /// Beam search of this width; 1: greedy.
  static CaptionOptions beam_search(std::int64_t beams);
};

/// What the decoder says under a condition: images, read-outs of the memory, or both.
/// @return one a row of the condition
/// @throws Error where an option is out of range or the prompt leaves no room
std::vector<GeneratedCaption> decode_captions(const TrainedModel& trained,
                                              const fusion::CaptionCondition& condition,
                                              const CaptionOptions& options);
/// @param beams  1: greedy
inline std::vector<GeneratedCaption> decode_captions(const TrainedModel& trained,
                                                     const fusion::CaptionCondition& condition,
                                                     std::int64_t beams) {
  return decode_captions(trained, condition, CaptionOptions::beam_search(beams));
}

/// A caption for each image, from the image alone (no memory).
/// @param image_tokens [N, 1+P, D] compressed, on any device; decoded in batches of eval.batch_size
/// @param beams        1: greedy
std::vector<GeneratedCaption> generate_captions(const TrainedModel& trained, const at::Tensor& image_tokens,
                                                std::int64_t beams);

}  // namespace tessera::inference
