#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "language/search.h"

namespace tessera::language {

/// Beam search as Hugging Face's `generate(num_beams=…, do_sample=False)` defines it, for all rows of the
/// prompt at once. Of each step's 2·beam_size best continuations, those that end among the first beam_size
/// are finished, and the best that go on are the next beams; at `limit` tokens all of the first beam_size are
/// finished. An input is done when it has beam_size finished beams and the best running one, divided by
/// its present length^length_penalty, is no better than the worst of them (early_stopping: as soon as it has
/// beam_size).
///
/// generate() is the way in; it has checked the arguments.
/// @param limit  new tokens at most, at least 1
std::vector<GeneratedText> beam_search(DecodeStep& step, const at::Tensor& prompt,
                                       const SearchOptions& options, const SpecialTokens& special,
                                       std::int64_t limit);

}  // namespace tessera::language
