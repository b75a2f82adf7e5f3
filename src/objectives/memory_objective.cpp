#include <ATen/ATen.h>

#include "config/config.h"
#include "core/autocast.h"
#include "language/next_token_loss.h"
#include "memory/episodic_memory.h"
#include "memory/memory_losses.h"
#include "model/stage1_model.h"
#include "objectives/memory_queries.h"
#include "objectives/objective_memory.h"
#include "objectives/objectives.h"

namespace tessera::objectives {

namespace {

class MemoryObjective : public Objective {
 public:
  using Objective::Objective;

  at::Tensor compute(const Encoded& encoded, const losses::LossesConfig& losses, Metrics& metrics) override {
    const memory::MemoryConfig& memory = context_.config.memory;
    model::Stage1Model& model = context_.model;
    // Only whole episodes; an epoch's last batch may be shorter.
    const std::int64_t pairs = encoded.size() / memory.episode * memory.episode;
    if (pairs == 0) return {};
    observed_ = encoded.pair_vectors;
    const QuerySides keeps = draw_query_sides(memory, rows_of(context_, encoded));
    const auto episodes = [&](const at::Tensor& codes) {
      return codes.slice(0, 0, pairs).reshape({pairs / memory.episode, memory.episode, memory.code_size});
    };
    const at::Device device = context_.compute.device;
    const at::Tensor codes = episodes(model.pair_codes(encoded.pair_vectors));
    const at::Tensor queries = episodes(
        model.pair_codes(encoded.pair_vectors, keeps.keeps_image.to(device), keeps.keeps_text.to(device)));
    const memory::EpisodeReading reading = model.memory()->read_episode(codes, queries);
    const memory::MemoryLosses parts = memory::memory_losses(reading, codes);

    // Decoded without the image: what the caption says must have come through the memory.
    at::Tensor logits;
    {
      const AutocastScope autocast(context_.compute);
      logits =
          model.caption_logits(encoded.causal_text.slice(0, 0, pairs), {{}, reading.codes.flatten(0, 1), {}});
    }
    const language::NextTokenLoss decoded =
        language::next_token_loss(logits, language::next_token_labels(encoded.tokens).slice(0, 0, pairs));
    const at::Tensor reconstruction = context_.mean_over_ranks(decoded.value * decoded.count, decoded.count);
    const at::Tensor alignment = context_.mean_over_ranks(parts.alignment_sum, parts.count);
    const at::Tensor kl = context_.mean_over_ranks(parts.kl_sum, parts.count);
    metrics.emplace_back("loss_memory", reconstruction);
    metrics.emplace_back("memory_read_error", alignment);
    metrics.emplace_back("memory_address_kl", kl);
    return reconstruction + losses.memory.alignment * alignment + losses.memory.kl * kl;
  }

  void after_update() override {
    if (!observed_.image.defined()) return;
    Collectives& collectives = context_.collectives;
    context_.model.observe_pairs(
        {collectives.all_gather(observed_.image), collectives.all_gather(observed_.text)});
    observed_ = {};
  }

 private:
  model::PairVectors observed_;  ///< by the pair code, once the update is done
};

ObjectiveMemory memory_memory(const PassMemory& memory) {
  const KeptActivations& passes = memory.passes;
  return {.kept = passes.decoder(static_cast<double>(memory.config.memory.read_tokens), /*joined=*/true),
          .backward = passes.logits_backward(),
          .cast_weights = memory.decoder_casts()};
}

}  // namespace

ObjectiveEntry memory_objective() {
  return {.name = "memory",
          .reads = {.bidirectional_text = true, .causal_text = true, .pair_vectors = true},
          .make = make_objective<MemoryObjective>,
          .memory = memory_memory};
}

}  // namespace tessera::objectives
