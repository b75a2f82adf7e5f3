#include "objectives/memory_queries.h"

#include <ATen/ops/empty.h>
#include <c10/core/GradMode.h>

#include "config/config.h"
#include "core/random.h"
#include "memory/episodic_memory.h"
#include "memory/memory_config.h"
#include "model/stage1_model.h"

namespace tessera::objectives {

namespace {

enum class Use : std::uint64_t { kQuerySides = 0, kCaption = 1 };

double uniform(const StepRows& rows, std::int64_t row, Use use) {
  const auto global_row = static_cast<std::uint64_t>(rows.first_global_row + row);
  return CounterRandom(rows.seed, RandomPurpose::kMemoryQuery, static_cast<std::uint64_t>(rows.step),
                       2 * global_row + static_cast<std::uint64_t>(use))
      .uniform();
}

}  // namespace

StepRows rows_of(const StepContext& context, const Encoded& encoded) {
  return {.seed = static_cast<std::uint64_t>(context.config.run.seed),
          .step = encoded.step,
          .first_global_row = context.collectives.rank() * encoded.size(),
          .rows = encoded.size()};
}

QuerySides draw_query_sides(const memory::MemoryConfig& memory, const StepRows& rows) {
  QuerySides sides{at::empty({rows.rows}, at::kBool), at::empty({rows.rows}, at::kBool)};
  bool* keeps_image = sides.keeps_image.mutable_data_ptr<bool>();
  bool* keeps_text = sides.keeps_text.mutable_data_ptr<bool>();
  for (std::int64_t i = 0; i < rows.rows; ++i) {
    const double draw = uniform(rows, i, Use::kQuerySides);
    keeps_text[i] = draw >= memory.drop_text;
    keeps_image[i] = draw < memory.drop_text || draw >= memory.drop_text + memory.drop_image;
  }
  return sides;
}

at::Tensor draw_captions_with_memory(const memory::MemoryConfig& memory, const StepRows& rows) {
  at::Tensor sees = at::empty({rows.rows}, at::kBool);
  bool* values = sees.mutable_data_ptr<bool>();
  for (std::int64_t i = 0; i < rows.rows; ++i) {
    values[i] = uniform(rows, i, Use::kCaption) < memory.caption_share;
  }
  return sees;
}

at::Tensor recall_from_others(const memory::MemoryConfig& memory, model::Stage1Model& model,
                              const model::PairVectors& pairs, const at::Tensor& image_ids) {
  const c10::NoGradGuard no_grad;
  const std::int64_t episodes = pairs.image.size(0) / memory.episode;
  const auto in_episodes = [&](const at::Tensor& rows) {
    return rows.slice(0, 0, episodes * memory.episode).unflatten(0, {episodes, memory.episode});
  };
  const at::Tensor written = in_episodes(model.pair_codes(pairs));
  const at::Tensor queries = in_episodes(model.pair_codes({pairs.image, {}}));
  return model.memory()->read_leave_one_out(written, queries, in_episodes(image_ids)).codes.flatten(0, 1);
}

}  // namespace tessera::objectives
