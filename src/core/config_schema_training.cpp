#include <iterator>

#include "core/config_rows.h"
#include "core/config_schema.h"

namespace tessera {

namespace {

using namespace config_rows;

std::vector<ConfigKey> fusion_keys() {
  return {
      integer(
          "fusion.embedding_size", {1, 1 << 16}, [](Config & c) -> auto& { return c.fusion.embedding_size; },
          "Width of the image and text embeddings that ITC compares"),
      integer(
          "fusion.token_size", {1, 1 << 16}, [](Config & c) -> auto& { return c.fusion.token_size; },
          "Width of the patch and text-token embeddings that MaxSim compares"),
      integer(
          "fusion.levels", {1, 1024}, [](Config & c) -> auto& { return c.fusion.levels; },
          "Image blocks, and as many top layers of the language model, that read each other"),
      integer(
          "fusion.image_attention_heads", {1, 1024},
          [](Config & c) -> auto& { return c.fusion.image_attention_heads; },
          "Self-attention heads of an image block; compressor.output_size is a multiple of it"),
      integer(
          "fusion.image_mlp_ratio", {1, 64}, [](Config & c) -> auto& { return c.fusion.image_mlp_ratio; },
          "Width of an image block's feed-forward part, in compressor.output_size"),
      integer(
          "fusion.cross_attention_heads", {1, 1024},
          [](Config & c) -> auto& { return c.fusion.cross_attention_heads; },
          "Heads of the gated cross-attention, both ways; both widths are multiples of it"),
  };
}

std::vector<ConfigKey> memory_keys() {
  return {
      integer(
          "memory.slots", {1, 1 << 16}, [](Config & c) -> auto& { return c.memory.slots; },
          "Rows of the memory; fewer than memory.code_size, or nothing could be forgotten"),
      integer(
          "memory.code_size", {2, 1 << 16}, [](Config & c) -> auto& { return c.memory.code_size; },
          "Width of the code of an image-caption pair"),
      integer(
          "memory.episode", {1, 1 << 16}, [](Config & c) -> auto& { return c.memory.episode; },
          "Pairs written together in training; data.batch_size is a multiple of it"),
      number(
          "memory.noise", kNonNegative, [](Config & c) -> auto& { return c.memory.noise; },
          "Standard deviation of the noise on codes in training"),
      number(
          "memory.drop_text", kFraction, [](Config & c) -> auto& { return c.memory.drop_text; },
          "Share of the queries that are codes of the image alone"),
      number(
          "memory.drop_image", kFraction, [](Config & c) -> auto& { return c.memory.drop_image; },
          "Share of the queries that are codes of the caption alone"),
      number(
          "memory.caption_share", kFraction, [](Config & c) -> auto& { return c.memory.caption_share; },
          "Share of the captions that are trained beside a read-out of an episode without their pair"),
      integer(
          "memory.read_tokens", {1, 256}, [](Config & c) -> auto& { return c.memory.read_tokens; },
          "Tokens that a read-out becomes for the decoder"),
  };
}

template <typename Field>
ConfigKey from_epoch(const char* path, Field field) {
  return integer(path, {1, 1 << 20}, field,
                 "Epoch, counted from 1, in which this loss joins; before, it is left out as with weight 0");
}

std::vector<ConfigKey> losses_keys() {
  return {
      number(
          "losses.itc.weight", kNonNegative, [](Config & c) -> auto& { return c.losses.itc.weight; },
          "Factor on the image-text contrastive loss"),
      from_epoch(
          "losses.itc.from_epoch", [](Config & c) -> auto& { return c.losses.itc.from_epoch; }),
      number(
          "losses.itc.temperature", {.minimum = 0.001, .maximum = 10},
          [](Config & c) -> auto& { return c.losses.itc.temperature; }, "Initial temperature; it is learned"),
      number(
          "losses.itc.temperature_min", {.minimum = 0.001, .maximum = 10},
          [](Config & c) -> auto& { return c.losses.itc.temperature_min; },
          "The learned temperature stays at or above it"),
      integer(
          "losses.itc.queue.size", {0, 1 << 20}, [](Config & c) -> auto& { return c.losses.itc.queue.size; },
          "Embeddings of past batches kept as further negatives; 0: no queue"),
      words<SameId>(
          "losses.itc.queue.same_id", {{"ignore", SameId::kIgnore}, {"positive", SameId::kPositive}},
          [](Config & c) -> auto& { return c.losses.itc.queue.same_id; },
          "A queued entry of the same image: left out, or a positive"),
      number(
          "losses.itc.queue.max_shift", kNonNegative,
          [](Config & c) -> auto& { return c.losses.itc.queue.max_shift; },
          "Nats by which an entry's age may move its logits; staler entries are left out; 0: no such rule"),
      integer(
          "losses.itc.queue.probe_pairs", {2, 4096},
          [](Config & c) -> auto& { return c.losses.itc.queue.probe_pairs; },
          "Pairs that are encoded again and again to measure that shift"),
      integer(
          "losses.itc.queue.probe_every", {1, 1 << 20},
          [](Config & c) -> auto& { return c.losses.itc.queue.probe_every; },
          "Steps between two such measurements"),
      number(
          "losses.itm.weight", kNonNegative, [](Config & c) -> auto& { return c.losses.itm.weight; },
          "Weight of image-text matching with hard negatives; 0: left out, with its passes"),
      from_epoch(
          "losses.itm.from_epoch", [](Config & c) -> auto& { return c.losses.itm.from_epoch; }),
      number(
          "losses.itm.uniform_share", kFraction,
          [](Config & c) -> auto& { return c.losses.itm.uniform_share; },
          "Share of those negatives that are drawn uniformly; more than 0 where hard ones are too hard to "
          "begin with"),
      number(
          "losses.maxsim.weight", kNonNegative, [](Config & c) -> auto& { return c.losses.maxsim.weight; },
          "Weight of contrast by late interaction; 0: left out"),
      from_epoch(
          "losses.maxsim.from_epoch", [](Config & c) -> auto& { return c.losses.maxsim.from_epoch; }),
      number(
          "losses.maxsim.temperature", {.minimum = 0.001, .maximum = 10},
          [](Config & c) -> auto& { return c.losses.maxsim.temperature; },
          "Initial temperature of late interaction; it is learned"),
      number(
          "losses.maxsim.temperature_min", {.minimum = 0.001, .maximum = 10},
          [](Config & c) -> auto& { return c.losses.maxsim.temperature_min; }, "Floor of that temperature"),
      number(
          "losses.caption.weight", kNonNegative, [](Config & c) -> auto& { return c.losses.caption.weight; },
          "Weight of the caption's next-token loss; 0: left out, with its pass"),
      from_epoch(
          "losses.caption.from_epoch", [](Config & c) -> auto& { return c.losses.caption.from_epoch; }),
      number(
          "losses.memory.weight", kNonNegative, [](Config & c) -> auto& { return c.losses.memory.weight; },
          "Weight of the memory episode, of which the caption's reconstruction is 1; 0: left out"),
      from_epoch(
          "losses.memory.from_epoch", [](Config & c) -> auto& { return c.losses.memory.from_epoch; }),
      number(
          "losses.memory.alignment", kNonNegative,
          [](Config & c) -> auto& { return c.losses.memory.alignment; },
          "Of the mean squared distance between read-out and code, within the episode's loss"),
      number(
          "losses.memory.kl", kNonNegative, [](Config & c) -> auto& { return c.losses.memory.kl; },
          "Of the KL divergence of the address from a standard normal, within the episode's loss"),
  };
}

std::vector<ConfigKey> schedule_keys() {
  return {
      integer(
          "schedule.epochs", {1, 1 << 20}, [](Config & c) -> auto& { return c.schedule.epochs; },
          "Epochs of the run, both phases"),
      integer(
          "schedule.lora_warmup_epochs", {0, 1 << 20},
          [](Config & c) -> auto& { return c.schedule.lora_warmup_epochs; },
          "Epochs of phase 1, in which LoRA is frozen; 0: no phase 1"),
      words<RebuildChoice>(
          "schedule.rebuild", {{"carry", RebuildChoice::kCarry}, {"reset", RebuildChoice::kReset}},
          [](Config & c) -> auto& { return c.schedule.rebuild; },
          "At the switch: keep the moments of what already trained, or start all afresh"),
      number(
          "schedule.warmup_fraction", kBelowOne,
          [](Config & c) -> auto& { return c.schedule.warmup_fraction; },
          "Share of all steps in which learning rates rise linearly"),
      integer(
          "schedule.lora_warmup_steps", {0, kUnbounded},
          [](Config & c) -> auto& { return c.schedule.lora_warmup_steps; },
          "Steps in which LoRA's own rate rises from the start of phase 2; where the common warm-up begins "
          "there too (rebuild: reset, or no phase 1), the slower of both counts"),
      words<DecayChoice>(
          "schedule.decay",
          {{"cosine", DecayChoice::kCosine},
           {"linear", DecayChoice::kLinear},
           {"constant", DecayChoice::kConstant}},
          [](Config & c) -> auto& { return c.schedule.decay; }, "How learning rates fall after the warm-up"),
      number(
          "schedule.final_fraction", kFraction, [](Config & c) -> auto& { return c.schedule.final_fraction; },
          "Learning rates at the end, as a share of their peak"),
      number(
          "schedule.learning_rate", kPositive, [](Config & c) -> auto& { return c.schedule.learning_rate; },
          "Peak learning rate, before the multipliers"),
      number(
          "schedule.lora_learning_rate", kPositive,
          [](Config & c) -> auto& { return c.schedule.lora_learning_rate; }, "Peak learning rate of LoRA"),
      number(
          "schedule.backbone_learning_rate", kPositive,
          [](Config & c) -> auto& { return c.schedule.backbone_learning_rate; },
          "Peak learning rate of the encoder (vision.trainable: full)"),
      number(
          "schedule.multipliers.language", kNonNegative,
          [](Config & c) -> auto& { return c.schedule.multipliers.language; },
          "Factor on learning_rate for the language model"),
      number(
          "schedule.multipliers.compressor", kNonNegative,
          [](Config & c) -> auto& { return c.schedule.multipliers.compressor; },
          "Factor on learning_rate for the compressor"),
      number(
          "schedule.multipliers.heads", kNonNegative,
          [](Config & c) -> auto& { return c.schedule.multipliers.heads; },
          "Factor on learning_rate for the poolers and heads"),
      number(
          "schedule.multipliers.fusion", kNonNegative,
          [](Config & c) -> auto& { return c.schedule.multipliers.fusion; },
          "Factor on learning_rate for the image blocks and the cross-attention"),
      number(
          "schedule.multipliers.gates", kNonNegative,
          [](Config & c) -> auto& { return c.schedule.multipliers.gates; },
          "Factor on learning_rate for the cross-attention's gates"),
      number(
          "schedule.multipliers.memory", kNonNegative,
          [](Config & c) -> auto& { return c.schedule.multipliers.memory; },
          "Factor on learning_rate for the episodic memory"),
      number(
          "schedule.multipliers.temperature", kNonNegative,
          [](Config & c) -> auto& { return c.schedule.multipliers.temperature; },
          "Factor on learning_rate for the temperatures; at 1 it needs thousands of steps to move"),
      integer(
          "schedule.max_steps", {0, kUnbounded}, [](Config & c) -> auto& { return c.schedule.max_steps; },
          "Stop after so many steps; 0: after schedule.epochs"),
  };
}

std::vector<ConfigKey> optimizer_keys() {
  return {
      number(
          "optimizer.beta1", kBelowOne, [](Config & c) -> auto& { return c.optimizer.beta1; },
          "AdamW's decay of the first moment"),
      number(
          "optimizer.beta2", kBelowOne, [](Config & c) -> auto& { return c.optimizer.beta2; },
          "AdamW's decay of the second moment"),
      number(
          "optimizer.eps", kPositive, [](Config & c) -> auto& { return c.optimizer.eps; },
          "AdamW's term against division by zero"),
      number(
          "optimizer.weight_decay", kNonNegative,
          [](Config & c) -> auto& { return c.optimizer.weight_decay; },
          "Decoupled; none on tensors of rank 0 and 1 (biases, norms, temperatures)"),
      number(
          "optimizer.clip_grad_norm", kNonNegative,
          [](Config & c) -> auto& { return c.optimizer.clip_grad_norm; },
          "Gradients are scaled down to this global norm; 0: never"),
  };
}

std::vector<ConfigKey> other_keys() {
  return {
      integer(
          "checkpoint.every_steps", {0, kUnbounded},
          [](Config & c) -> auto& { return c.checkpoint.every_steps; },
          "Steps between two checkpoints; 0: by epochs only"),
      integer(
          "checkpoint.every_epochs", {0, 1 << 20},
          [](Config & c) -> auto& { return c.checkpoint.every_epochs; },
          "Epochs between two checkpoints, beside those that are validated, at the switch and at the end; 0: "
          "those and every_steps alone"),
      integer(
          "checkpoint.keep", {0, 1 << 20}, [](Config & c) -> auto& { return c.checkpoint.keep; },
          "Newest checkpoints kept beside the best; 0: all"),
      words<std::string>(
          "checkpoint.best_metric",
          {{"mean_r1", "mean_r1"},
           {"mean_r5", "mean_r5"},
           {"mean_r10", "mean_r10"},
           {"image_to_text_r1", "image_to_text_r1"},
           {"image_to_text_r5", "image_to_text_r5"},
           {"image_to_text_r10", "image_to_text_r10"},
           {"text_to_image_r1", "text_to_image_r1"},
           {"text_to_image_r5", "text_to_image_r5"},
           {"text_to_image_r10", "text_to_image_r10"}},
          [](Config & c) -> auto& { return c.checkpoint.best_metric; },
          "Validation metric whose highest value is kept as checkpoints/best"),
      integer(
          "eval.every_epochs", {0, 1 << 20}, [](Config & c) -> auto& { return c.eval.every_epochs; },
          "Epochs between two validations; 0: none while training"),
      integer(
          "eval.batch_size", {1, 1 << 20}, [](Config & c) -> auto& { return c.eval.batch_size; },
          "Images or captions encoded at once"),
      text(
          "init_from", TextKind::kInputPath, [](Config & c) -> auto& { return c.init_from; },
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
