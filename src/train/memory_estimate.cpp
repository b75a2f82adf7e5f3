#include "train/memory_estimate.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "config/config.h"
#include "core/device.h"
#include "fusion/fusion_tower.h"
#include "language/language_model.h"
#include "lora/lora_targets.h"
#include "model/adaptable_parts.h"
#include "model/stage1_model.h"
#include "objectives/kept_activations.h"
#include "objectives/objective_memory.h"
#include "objectives/objectives.h"
#include "vision/encoder.h"

namespace tessera::train {

namespace {

constexpr double kFloat = 4, kBfloat16 = 2, kInteger = 8;
/// What is resident without a model, mostly LibTorch's (docs/results.md).
constexpr double kProgram = 220.0 * 1024 * 1024;

/// Numbers in the matrices that train, by who uses them.
objectives::PassMemory pass_memory(const Config& config, const model::Stage1Model& model,
                                   const objectives::KeptActivations& passes) {
  const language::LanguageModelConfig& shape = model.language()->config();
  objectives::PassMemory memory{
      .config = config, .passes = passes, .has_queue = objectives::has_queue(config.losses)};
  const bool whole_language = config.language.trainable == lora::TrainableChoice::kFull;
  if (whole_language) {
    memory.embedding = static_cast<double>(shape.vocab_size * shape.hidden_size);
    memory.language = -memory.embedding;
  }
  for (const model::NamedParameter& parameter : model.named_parts()) {
    const auto numbers = static_cast<double>(parameter.tensor.numel());
    if (parameter.part == model::Part::kLanguage) {
      if (whole_language || parameter.tensor.requires_grad()) memory.language += numbers;
    } else if (parameter.tensor.requires_grad() && parameter.tensor.dim() > 1) {
      (parameter.part == model::Part::kFusion ? memory.fusion : memory.others) += numbers;
    }
  }
  memory.upper_language = memory.language * static_cast<double>(model.fusion()->levels()) /
                          static_cast<double>(shape.num_hidden_layers);
  return memory;
}

/// What the passes take beside the encoder, as TrainingStep::compute makes them.
struct PassesTogether {
  double kept = 0;  ///< bytes a pair for the backward pass
  double backward =
      0;  ///< bytes a pair that it takes at its beginning, when all that was kept is still there
  /// Bytes of autocast's copies of the weights that train: each pass that is under it by itself makes its
  /// own, which its part of the graph keeps.
  double cast_weights = 0;
};

PassesTogether passes_together(const Config& config, const model::Stage1Model& model,
                               const objectives::KeptActivations& passes) {
  const objectives::Reads reads = objectives::reads_of(config.losses);
  const objectives::PassMemory memory = pass_memory(config, model, passes);
  PassesTogether all{.kept = passes.compressor() + passes.image_blocks(),
                     .backward = passes.fused_backward(),
                     .cast_weights = memory.others + memory.fusion / 2 + memory.language};
  if (reads.bidirectional_text) all.kept += passes.text();
  if (reads.causal_text) all.kept += passes.lower_text() + passes.first_text_attention();
  for (const objectives::ObjectiveEntry& entry : objectives::chosen_objectives(config.losses)) {
    const objectives::ObjectiveMemory own = entry.memory(memory);
    all.kept += own.kept;
    all.backward = std::max(all.backward, own.backward);
    all.cast_weights += own.cast_weights;
  }
  all.cast_weights *= kBfloat16;
  return all;
}

/// Frozen parts' weights as autocast computes with them (nn/frozen_cast.h).
double frozen_casts(const Config& config, const model::Stage1Model& model) {
  double numbers = 0;
  for (const model::AdaptablePart& part : model::adaptable_parts()) {
    if (part.trainable.of(config) == lora::TrainableChoice::kFull) continue;
    for (const lora::NamedLinear& item : lora::named_linears(part.module(model))) {
      if (!item.linear->weight.requires_grad()) numbers += static_cast<double>(item.linear->weight.numel());
    }
  }
  return kBfloat16 * numbers;
}

double queue_bytes(const Config& config, const objectives::KeptActivations& passes) {
  if (!objectives::has_queue(config.losses)) return 0;
  double entry = 2 * kFloat * static_cast<double>(config.fusion.embedding_size) + 2 * kInteger;
  if (objectives::reads_of(config.losses).queue_payload) {
    entry += kBfloat16 * passes.image_tokens() * static_cast<double>(config.compressor.output_size) +
             kInteger * static_cast<double>(config.language.max_tokens);
  }
  return entry * static_cast<double>(config.losses.itc.queue.size);
}

/// The batch of the step, and those that wait or are being put together.
double batch_bytes(const Config& config) {
  const auto side = static_cast<double>(config.data.image_size);
  const double pixels = 3 * side * side * static_cast<double>(config.data.batch_size);
  return pixels * static_cast<double>(config.data.prefetch_batches + 2);
}

}  // namespace

MemoryEstimate estimate_memory(const Config& config, const model::Stage1Model& model,
                               const Compute& compute) {
  double all = 0;
  for (const model::NamedParameter& parameter : model.named_parts())
    all += static_cast<double>(parameter.tensor.numel());
  const auto trained = static_cast<double>(model.trainable_parameters());
  const auto pairs = static_cast<double>(config.data.batch_size);
  const bool casts = compute.dtype != at::kFloat;
  const objectives::KeptActivations passes(config, model, compute);
  const PassesTogether together = passes_together(config, model, passes);
  const vision::EncoderActivations encoder =
      model.vision().activations(config.data.image_size, config.data.image_size, compute);

  MemoryEstimate memory;
  if (compute.device.is_cpu()) memory.program = kProgram;
  memory.weights = kFloat * all + (casts ? frozen_casts(config, model) : 0);
  memory.moments = 2 * kFloat * trained;
  memory.queue = queue_bytes(config, passes);
  memory.batches = batch_bytes(config);
  memory.gradients = kFloat * trained;
  memory.last_activations = pairs * (encoder.kept + encoder.block);
  const double all_passes =
      pairs * (encoder.kept + together.kept + together.backward) + (casts ? together.cast_weights : 0);
  // A small model's encoder may take more while it runs than all that comes after it keeps.
  memory.activations = std::max(all_passes, pairs * (encoder.kept + encoder.passing));
  return memory;
}

}  // namespace tessera::train
