#include "config/training_config.h"

#include "core/config_rows.h"

namespace tessera {

ConfigRows config_rows(ScheduleConfig& schedule) {
  using namespace config_kinds;
  return rows(
      "Phases and learning rates",
      {TESSERA_GROUP(schedule.multipliers, "Factors on schedule.learning_rate by part"),
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
                   "Stop after so many steps; 0: after schedule.epochs")});
}

ConfigRows config_rows(OptimizerConfig& optimizer) {
  using namespace config_kinds;
  return rows("AdamW",
              {TESSERA_KEY(number, optimizer.beta1, kBelowOne, "AdamW's decay of the first moment"),
               TESSERA_KEY(number, optimizer.beta2, kBelowOne, "AdamW's decay of the second moment"),
               TESSERA_KEY(number, optimizer.eps, kPositive, "AdamW's term against division by zero"),
               TESSERA_KEY(number, optimizer.weight_decay, kNonNegative,
                           "Decoupled; none on tensors of rank 0 and 1 (biases, norms, temperatures)"),
               TESSERA_KEY(number, optimizer.clip_grad_norm, kNonNegative,
                           "Gradients are scaled down to this global norm; 0: never")});
}

ConfigRows config_rows(CheckpointConfig& checkpoint) {
  using namespace config_kinds;
  return rows(
      "When state is saved, and what is kept",
      {TESSERA_KEY(integer, checkpoint.every_steps, {0, kUnbounded},
                   "Steps between two checkpoints; 0: by epochs only"),
       TESSERA_KEY(integer, checkpoint.every_epochs, {0, 1 << 20},
                   "Epochs between two checkpoints, beside those that are validated, at the switch and at "
                   "the end; 0: "
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
                   "Validation metric whose highest value is kept as checkpoints/best")});
}

ConfigRows config_rows(EvalConfig& eval) {
  using namespace config_kinds;
  return rows("Validation while training",
              {TESSERA_KEY(integer, eval.every_epochs, {0, 1 << 20},
                           "Epochs between two validations; 0: none while training"),
               TESSERA_KEY(integer, eval.batch_size, {1, 1 << 20}, "Images or captions encoded at once")});
}

}  // namespace tessera
