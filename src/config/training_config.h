#pragma once

#include <cstdint>
#include <string>

namespace tessera {

struct ConfigRows;

enum class RebuildChoice { kCarry, kReset };

enum class DecayChoice { kCosine, kLinear, kConstant };

/// Factors on schedule.learning_rate by parameter group.
struct LearningRateMultipliers {
  double language = 1.0;
  double compressor = 1.0;
  double heads = 5.0;
  double fusion = 5.0;
  double gates = 10.0;
  double memory = 5.0;
  double temperature = 10.0;

  bool operator==(const LearningRateMultipliers&) const = default;
};

struct ScheduleConfig {
  std::int64_t epochs = 50;
  std::int64_t lora_warmup_epochs = 5;  ///< epochs with LoRA frozen
  RebuildChoice rebuild = RebuildChoice::kCarry;
  double warmup_fraction = 0.1;          ///< of all steps
  std::int64_t lora_warmup_steps = 100;  ///< the LoRA group's own warm-up after the switch
  DecayChoice decay = DecayChoice::kCosine;
  double final_fraction = 0.0;  ///< learning rate at the end, as a fraction of its peak
  double learning_rate = 1e-4;
  double lora_learning_rate = 1e-4;
  double backbone_learning_rate = 1e-5;  ///< vision.trainable: full
  LearningRateMultipliers multipliers;
  std::int64_t max_steps = 0;  ///< stop after this many steps; 0: by epochs

  bool operator==(const ScheduleConfig&) const = default;
};

struct OptimizerConfig {
  double beta1 = 0.9;
  double beta2 = 0.98;
  double eps = 1e-8;
  double weight_decay = 0.01;
  double clip_grad_norm = 1.0;  ///< 0: no clipping

  bool operator==(const OptimizerConfig&) const = default;
};

struct CheckpointConfig {
  std::int64_t every_steps = 0;         ///< 0: at the end of an epoch only
  std::int64_t every_epochs = 1;        ///< 0: only by every_steps and at the end
  std::int64_t keep = 3;                ///< newest kept beside best; 0: all
  std::string best_metric = "mean_r1";  ///< of the validation; highest is best

  bool operator==(const CheckpointConfig&) const = default;
};

struct EvalConfig {
  std::int64_t every_epochs = 1;  ///< 0: no validation while training
  std::int64_t batch_size = 64;

  bool operator==(const EvalConfig&) const = default;
};

/// The sections' keys (core/config_rows.h).
ConfigRows config_rows(ScheduleConfig& schedule);
ConfigRows config_rows(OptimizerConfig& optimizer);
ConfigRows config_rows(CheckpointConfig& checkpoint);
ConfigRows config_rows(EvalConfig& eval);

}  // namespace tessera
