#include "train/memory_estimate.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/config.h"
#include "core/device.h"
#include "fusion/fusion_tower.h"
#include "language/language_model.h"
#include "model/stage1_model.h"
#include "train/kept_activations.h"
#include "vision/encoder.h"
#include "vision/linear.h"

namespace tessera::train {

namespace {

constexpr double kFloat = 4, kBfloat16 = 2, kInteger = 8;
/// What is resident without a model, mostly LibTorch's (docs/results.md).
constexpr double kProgram = 220.0 * 1024 * 1024;

bool has_queue(const LossesConfig& losses) {
  return losses.itc.queue.size > 0 && (losses.itc.weight > 0 || losses.itm.weight > 0);
}

bool decodes(const LossesConfig& losses) { return losses.caption.weight > 0 || losses.memory.weight > 0; }

bool reads_bidirectional_text(const LossesConfig& losses) {
  return losses.itc.weight > 0 || losses.maxsim.weight > 0 || losses.itm.weight > 0 ||
         losses.memory.weight > 0;
}

/// What a pair's passes keep beside the encoder, as TrainingStep::compute makes them.
double kept_by_pair(const Config& config, const KeptActivations& passes) {
  const LossesConfig& losses = config.losses;
  double kept = passes.compressor() + passes.image_blocks();
  if (reads_bidirectional_text(losses)) kept += passes.text();
  if (losses.maxsim.weight > 0) kept += passes.maxsim();
  if (losses.itm.weight > 0) {
    kept += 3 * passes.fused();
    if (has_queue(losses)) {
      // Negatives come from elsewhere: there are twice as many images and texts, and the texts are encoded.
      kept += 2 * passes.shared_by_pairs(/*with_self_attention=*/true) + passes.lower_text();
    } else {
      kept += passes.shared_by_pairs(/*with_self_attention=*/false);
    }
  }
  if (decodes(losses)) kept += passes.lower_text() + passes.first_text_attention();  // causal
  const auto read_tokens = static_cast<double>(config.memory.read_tokens);
  if (losses.caption.weight > 0) {
    const bool with_memory = losses.memory.weight > 0 && config.memory.caption_share > 0;
    kept += passes.decoder(passes.image_tokens() + (with_memory ? read_tokens : 0), with_memory);
  }
  if (losses.memory.weight > 0) kept += passes.decoder(read_tokens, /*joined=*/true);
  return kept;
}

/// What the backward pass takes at its beginning, when all that was kept is still there.
double first_backward(const LossesConfig& losses, const KeptActivations& passes) {
  return std::max(decodes(losses) ? passes.logits_backward() : 0,
                  losses.itm.weight > 0 ? 3 * passes.fused_backward() : passes.fused_backward());
}

/// Autocast's copies of the weights that train: each pass that is under it by itself makes its own, which its
/// part of the graph keeps.
double cast_weights(const Config& config, const model::Stage1Model& model) {
  const language::LanguageModelConfig& shape = model.language()->config();
  const auto embedding = static_cast<double>(shape.vocab_size * shape.hidden_size);
  double language = -embedding, fusion = 0, others = 0;
  for (const model::NamedParameter& parameter : model.named_parts()) {
    const auto numbers = static_cast<double>(parameter.tensor.numel());
    if (parameter.part == model::Part::kLanguage) {
      language += numbers;
    } else if (parameter.tensor.requires_grad() && parameter.tensor.dim() > 1) {
      (parameter.part == model::Part::kFusion ? fusion : others) += numbers;
    }
  }
  const double upper =
      language * static_cast<double>(model.fusion()->levels()) / static_cast<double>(shape.num_hidden_layers);
  const LossesConfig& losses = config.losses;
  double numbers = others + fusion / 2 + language;
  if (losses.itm.weight > 0) numbers += fusion + (has_queue(losses) ? language : upper);
  if (losses.caption.weight > 0) numbers += fusion / 2 + upper + embedding;
  if (losses.memory.weight > 0) numbers += fusion / 2 + upper + embedding;
  return kBfloat16 * numbers;
}

/// The frozen encoder's weights as autocast computes with them (vision/frozen_cast.h).
double frozen_casts(const model::Stage1Model& model) {
  double numbers = 0;
  for (const auto& module : model.vision().modules(/*include_self=*/false)) {
    const auto* linear = dynamic_cast<const vision::LinearImpl*>(module.get());
    if (linear != nullptr && !linear->weight.requires_grad())
      numbers += static_cast<double>(linear->weight.numel());
  }
  return kBfloat16 * numbers;
}

double queue_bytes(const Config& config, const KeptActivations& passes) {
  if (!has_queue(config.losses)) return 0;
  double entry = 2 * kFloat * static_cast<double>(config.fusion.embedding_size) + 2 * kInteger;
  if (config.losses.itm.weight > 0) {
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
  const KeptActivations passes(config, model, compute);
  const EncoderActivations encoder = passes.encoder();

  MemoryEstimate memory;
  if (compute.device.is_cpu()) memory.program = kProgram;
  memory.weights = kFloat * all + (casts ? frozen_casts(model) : 0);
  memory.moments = 2 * kFloat * trained;
  memory.queue = queue_bytes(config, passes);
  memory.batches = batch_bytes(config);
  memory.gradients = kFloat * trained;
  memory.last_activations = pairs * (encoder.kept + encoder.block + encoder.backward);
  const double all_passes =
      pairs * (encoder.kept + kept_by_pair(config, passes) + first_backward(config.losses, passes)) +
      (casts ? cast_weights(config, model) : 0);
  // A small model's encoder may take more while it runs than all that comes after it keeps.
  memory.activations = std::max(all_passes, pairs * (encoder.kept + encoder.passing));
  return memory;
}

}  // namespace tessera::train
