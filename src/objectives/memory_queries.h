#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "model/features.h"
#include "objectives/objective.h"

namespace tessera::memory {
struct MemoryConfig;
}
namespace tessera::model {
class Stage1Model;
}

namespace tessera::objectives {

/// Which pairs of a step a draw is for. Draws are a function of (seed, step, global row) alone: one rank and
/// several draw the same.
struct StepRows {
  std::uint64_t seed = 0;
  std::int64_t step = 0;
  std::int64_t first_global_row = 0;  ///< of this rank's pairs among all of the step
  std::int64_t rows = 0;
};

/// The batch's, as this rank has them.
StepRows rows_of(const StepContext& context, const Encoded& encoded);

/// What the memory's queries keep of their pairs: [B] bool each. No row lacks both.
struct QuerySides {
  at::Tensor keeps_image;
  at::Tensor keeps_text;
};

/// memory.drop_text of the queries lose their text, memory.drop_image their image.
QuerySides draw_query_sides(const memory::MemoryConfig& memory, const StepRows& rows);

/// [B] bool: the memory.caption_share of the captions that see a read-out beside their image.
at::Tensor draw_captions_with_memory(const memory::MemoryConfig& memory, const StepRows& rows);

/// What each image recalls from a memory of its episode's other images, without gradient. No caption of its
/// own has a part in it: neither is a pair of that image written, nor does the query hold the text.
/// @param memory    of whose episodes only whole ones take part
/// @param pairs     of both sides
/// @param image_ids [B] int64 on their device; a batch may hold an image several times
/// @return [E, code_size], E the pairs in whole episodes
at::Tensor recall_from_others(const memory::MemoryConfig& memory, model::Stage1Model& model,
                              const model::PairVectors& pairs, const at::Tensor& image_ids);

}  // namespace tessera::objectives
