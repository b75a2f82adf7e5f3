#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "eval/suites.h"

namespace tessera::eval {

struct GeneratedCaption {
  std::string text;
  bool finished = false;  ///< by the end token; otherwise it was cut off at language.max_tokens
};

/// A caption for each image, from the image alone (no memory).
/// @param image_tokens [N, 1+P, D] compressed, on any device; decoded in batches of eval.batch_size
/// @param beams        1: greedy
std::vector<GeneratedCaption> generate_captions(const EvaluatedModel& evaluated,
                                                const at::Tensor& image_tokens, std::int64_t beams);

}  // namespace tessera::eval
