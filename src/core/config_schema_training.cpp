#include <iterator>

#include "core/config_rows.h"
#include "core/config_schema.h"

namespace tessera {

namespace {

using namespace config_rows;

std::vector<ConfigKey> fusion_keys() {
  return {
      TESSERA_KEY(integer, fusion.embedding_size, {1, 1 << 16},
                  "Width of the image and text embeddings that ITC compares"),
      TESSERA_KEY(integer, fusion.token_size, {1, 1 << 16},
                  "Width of the patch and text-token embeddings that MaxSim compares"),
      TESSERA_KEY(integer, fusion.levels, {1, 1024},
                  "Image blocks, and as many top layers of the language model, that read each other"),
      TESSERA_KEY(integer, fusion.image_attention_heads, {1, 1024},
                  "Self-attention heads of an image block; compressor.output_size is a multiple of it"),
      TESSERA_KEY(integer, fusion.image_mlp_ratio, {1, 64},
                  "Width of an image block's feed-forward part, in compressor.output_size"),
      TESSERA_KEY(integer, fusion.cross_attention_heads, {1, 1024},
                  "Heads of the gated cross-attention, both ways; both widths are multiples of it"),
  };
}

std::vector<ConfigKey> memory_keys() {
  return {
      TESSERA_KEY(integer, memory.slots, {1, 1 << 16},
                  "Rows of the memory; fewer than memory.code_size, or nothing could be forgotten"),
      TESSERA_KEY(integer, memory.code_size, {2, 1 << 16}, "Width of the code of an image-caption pair"),
      TESSERA_KEY(integer, memory.episode, {1, 1 << 16},
                  "Pairs written together in training; data.batch_size is a multiple of it"),
      TESSERA_KEY(number, memory.noise, kNonNegative, "Standard deviation of the noise on codes in training"),
      TESSERA_KEY(number, memory.drop_text, kFraction,
                  "Share of the queries that are codes of the image alone"),
      TESSERA_KEY(number, memory.drop_image, kFraction,
                  "Share of the queries that are codes of the caption alone"),
      TESSERA_KEY(
          number, memory.caption_share, kFraction,
          "Share of the captions that are trained beside a read-out of an episode without their pair"),
      TESSERA_KEY(integer, memory.read_tokens, {1, 256}, "Tokens that a read-out becomes for the decoder"),
  };
}

ConfigKey from_epoch(const char* path, std::int64_t& (*member)(Config&)) {
  return integer(path, member, {1, 1 << 20},
                 "Epoch, counted from 1, in which this loss joins; before, it is left out as with weight 0");
}

std::vector<ConfigKey> losses_keys() {
  return {
      TESSERA_KEY(number, losses.itc.weight, kNonNegative, "Factor on the image-text contrastive loss"),
      TESSERA_KEY(from_epoch, losses.itc.from_epoch),
      learned(TESSERA_KEY(number, losses.itc.temperature, {.minimum = 0.001, .maximum = 10},
                          "Initial temperature; it is learned")),
      TESSERA_KEY(number, losses.itc.temperature_min, {.minimum = 0.001, .maximum = 10},
                  "The learned temperature stays at or above it"),
      TESSERA_KEY(integer, losses.itc.queue.size, {0, 1 << 20},
                  "Embeddings of past batches kept as further negatives; 0: no queue"),
      TESSERA_KEY(words<SameId>, losses.itc.queue.same_id,
                  {{"ignore", SameId::kIgnore}, {"positive", SameId::kPositive}},
                  "A queued entry of the same image: left out, or a positive"),
      TESSERA_KEY(
          number, losses.itc.queue.max_shift, kNonNegative,
          "Nats by which an entry's age may move its logits; staler entries are left out; 0: no such rule"),
      TESSERA_KEY(integer, losses.itc.queue.probe_pairs, {2, 4096},
                  "Pairs that are encoded again and again to measure that shift"),
      TESSERA_KEY(integer, losses.itc.queue.probe_every, {1, 1 << 20}, "Steps between two such measurements"),
      TESSERA_KEY(
          number, losses.siglip.weight, kNonNegative,
          "Factor on the sigmoid loss of image-text pairs (SigLIP), beside ITC or in its place; 0: left out"),
      TESSERA_KEY(from_epoch, losses.siglip.from_epoch),
      learned(TESSERA_KEY(number, losses.siglip.temperature, {.minimum = 0.001, .maximum = 10},
                          "Initial temperature of the sigmoid loss; it is learned")),
      TESSERA_KEY(number, losses.siglip.temperature_min, {.minimum = 0.001, .maximum = 10},
                  "Floor of that temperature"),
      learned(
          TESSERA_KEY(number, losses.siglip.bias, {.minimum = -100, .maximum = 100},
                      "Initial bias on its logits, far below 0 since most pairs are none; it is learned")),
      TESSERA_KEY(number, losses.itm.weight, kNonNegative,
                  "Weight of image-text matching with hard negatives; 0: left out, with its passes"),
      TESSERA_KEY(from_epoch, losses.itm.from_epoch),
      TESSERA_KEY(
          number, losses.itm.uniform_share, kFraction,
          "Share of those negatives that are drawn uniformly; more than 0 where hard ones are too hard to "
          "begin with"),
      TESSERA_KEY(number, losses.maxsim.weight, kNonNegative,
                  "Weight of contrast by late interaction; 0: left out"),
      TESSERA_KEY(from_epoch, losses.maxsim.from_epoch),
      learned(TESSERA_KEY(number, losses.maxsim.temperature, {.minimum = 0.001, .maximum = 10},
                          "Initial temperature of late interaction; it is learned")),
      TESSERA_KEY(number, losses.maxsim.temperature_min, {.minimum = 0.001, .maximum = 10},
                  "Floor of that temperature"),
      TESSERA_KEY(number, losses.caption.weight, kNonNegative,
                  "Weight of the caption's next-token loss; 0: left out, with its pass"),
      TESSERA_KEY(from_epoch, losses.caption.from_epoch),
      TESSERA_KEY(number, losses.memory.weight, kNonNegative,
                  "Weight of the memory episode, of which the caption's reconstruction is 1; 0: left out"),
      TESSERA_KEY(from_epoch, losses.memory.from_epoch),
      TESSERA_KEY(number, losses.memory.alignment, kNonNegative,
                  "Of the mean squared distance between read-out and code, within the episode's loss"),
      TESSERA_KEY(number, losses.memory.kl, kNonNegative,
                  "Of the KL divergence of the address from a standard normal, within the episode's loss"),
  };
}

std::vector<ConfigKey> schedule_keys() {
  return {
      TESSERA_KEY(integer, schedule.epochs, {1, 1 << 20}, "Epochs of the run, both phases"),
      TESSERA_KEY(integer, schedule.lora_warmup_epochs, {0, 1 << 20},
                  "Epochs of phase 1, in which LoRA is frozen; 0: no phase 1"),
      TESSERA_KEY(words<RebuildChoice>, schedule.rebuild,
                  {{"carry", RebuildChoice::kCarry}, {"reset", RebuildChoice::kReset}},
                  "At the switch: keep the moments of what already trained, or start all afresh"),
      TESSERA_KEY(number, schedule.warmup_fraction, kBelowOne,
                  "Share of all steps in which learning rates rise linearly"),
      TESSERA_KEY(
          integer, schedule.lora_warmup_steps, {0, kUnbounded},
          "Steps in which LoRA's own rate rises from the start of phase 2; where the common warm-up begins "
          "there too (rebuild: reset, or no phase 1), the slower of both counts"),
      TESSERA_KEY(words<DecayChoice>, schedule.decay,
                  {{"cosine", DecayChoice::kCosine},
                   {"linear", DecayChoice::kLinear},
                   {"constant", DecayChoice::kConstant}},
                  "How learning rates fall after the warm-up"),
      TESSERA_KEY(number, schedule.final_fraction, kFraction,
                  "Learning rates at the end, as a share of their peak"),
      TESSERA_KEY(number, schedule.learning_rate, kPositive, "Peak learning rate, before the multipliers"),
      TESSERA_KEY(number, schedule.lora_learning_rate, kPositive, "Peak learning rate of LoRA"),
      TESSERA_KEY(number, schedule.backbone_learning_rate, kPositive,
                  "Peak learning rate of the encoder (vision.trainable: full)"),
      TESSERA_KEY(number, schedule.multipliers.language, kNonNegative,
                  "Factor on learning_rate for the language model"),
      TESSERA_KEY(number, schedule.multipliers.compressor, kNonNegative,
                  "Factor on learning_rate for the compressor"),
      TESSERA_KEY(number, schedule.multipliers.heads, kNonNegative,
                  "Factor on learning_rate for the poolers and heads"),
      TESSERA_KEY(number, schedule.multipliers.fusion, kNonNegative,
                  "Factor on learning_rate for the image blocks and the cross-attention"),
      TESSERA_KEY(number, schedule.multipliers.gates, kNonNegative,
                  "Factor on learning_rate for the cross-attention's gates"),
      TESSERA_KEY(number, schedule.multipliers.memory, kNonNegative,
                  "Factor on learning_rate for the episodic memory"),
      TESSERA_KEY(number, schedule.multipliers.temperature, kNonNegative,
                  "Factor on learning_rate for the temperatures; at 1 it needs thousands of steps to move"),
      TESSERA_KEY(integer, schedule.max_steps, {0, kUnbounded},
                  "Stop after so many steps; 0: after schedule.epochs"),
  };
}

std::vector<ConfigKey> optimizer_keys() {
  return {
      TESSERA_KEY(number, optimizer.beta1, kBelowOne, "AdamW's decay of the first moment"),
      TESSERA_KEY(number, optimizer.beta2, kBelowOne, "AdamW's decay of the second moment"),
      TESSERA_KEY(number, optimizer.eps, kPositive, "AdamW's term against division by zero"),
      TESSERA_KEY(number, optimizer.weight_decay, kNonNegative,
                  "Decoupled; none on tensors of rank 0 and 1 (biases, norms, temperatures)"),
      TESSERA_KEY(number, optimizer.clip_grad_norm, kNonNegative,
                  "Gradients are scaled down to this global norm; 0: never"),
  };
}

std::vector<ConfigKey> other_keys() {
  return {
      TESSERA_KEY(integer, checkpoint.every_steps, {0, kUnbounded},
                  "Steps between two checkpoints; 0: by epochs only"),
      TESSERA_KEY(
          integer, checkpoint.every_epochs, {0, 1 << 20},
          "Epochs between two checkpoints, beside those that are validated, at the switch and at the end; 0: "
          "those and every_steps alone"),
      TESSERA_KEY(integer, checkpoint.keep, {0, 1 << 20}, "Newest checkpoints kept beside the best; 0: all"),
      TESSERA_KEY(words<std::string>, checkpoint.best_metric,
                  {{"mean_r1", "mean_r1"},
                   {"mean_r5", "mean_r5"},
                   {"mean_r10", "mean_r10"},
                   {"image_to_text_r1", "image_to_text_r1"},
                   {"image_to_text_r5", "image_to_text_r5"},
                   {"image_to_text_r10", "image_to_text_r10"},
                   {"text_to_image_r1", "text_to_image_r1"},
                   {"text_to_image_r5", "text_to_image_r5"},
                   {"text_to_image_r10", "text_to_image_r10"}},
                  "Validation metric whose highest value is kept as checkpoints/best"),
      TESSERA_KEY(integer, eval.every_epochs, {0, 1 << 20},
                  "Epochs between two validations; 0: none while training"),
      TESSERA_KEY(integer, eval.batch_size, {1, 1 << 20}, "Images or captions encoded at once"),
      TESSERA_KEY(text, init_from, TextKind::kInputPath,
                  "Checkpoint folder whose weights a new run starts from; empty: none"),
  };
}

}  // namespace

std::vector<ConfigKey> training_config_keys() {
  std::vector<ConfigKey> all;
  for (auto part :
       {fusion_keys(), memory_keys(), losses_keys(), schedule_keys(), optimizer_keys(), other_keys()}) {
    std::move(part.begin(), part.end(), std::back_inserter(all));
  }
  return all;
}

}  // namespace tessera
