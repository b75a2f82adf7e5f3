#include "core/config_schema.h"

#include <iterator>

#include "core/config_rows.h"

namespace tessera {

namespace {

using namespace config_rows;

std::vector<ConfigKey> run_keys() {
  return {
      text(
          "run.name", TextKind::kName, [](Config & c) -> auto& { return c.run.name; },
          "Names the run's folders, OUTPUT_DIR/NAME and LOG_DIR/NAME"),
      text(
          "run.output_dir", TextKind::kFolder, [](Config & c) -> auto& { return c.run.output_dir; },
          "Holds the run folders (checkpoints, metrics, resolved config); relative to the working folder"),
      text(
          "run.log_dir", TextKind::kFolder, [](Config & c) -> auto& { return c.run.log_dir; },
          "Gets NAME/training.log, a copy of the run folder's log; relative to the working folder"),
      integer(
          "run.seed", {0, kUnbounded}, [](Config & c) -> auto& { return c.run.seed; },
          "Decides everything that is drawn: initial weights, shuffling, captions, augmentation"),
      words<DeviceChoice>(
          "run.device",
          {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}},
          [](Config & c) -> auto& { return c.run.device; },
          "Where to compute; auto takes a GPU where this build and machine have one"),
      words<PrecisionChoice>(
          "run.precision",
          {{"auto", PrecisionChoice::kAuto},
           {"fp32", PrecisionChoice::kFp32},
           {"bf16", PrecisionChoice::kBf16}},
          [](Config & c) -> auto& { return c.run.precision; },
          "Of matrix products; parameters stay fp32. auto: bf16 on a GPU that computes in it, else fp32"),
      integer(
          "run.threads", {0, 4096}, [](Config & c) -> auto& { return c.run.threads; },
          "CPU threads of one operation; 0: as many as the machine or a control group's quota gives"),
      integer(
          "run.log_every", {1, kUnbounded}, [](Config & c) -> auto& { return c.run.log_every; },
          "Steps between two logged lines of metrics"),
  };
}

std::vector<ConfigKey> data_keys() {
  return {
      text_list(
          "data.train", true, [](Config & c) -> auto& { return c.data.train; },
          "WebDataset shards to train on, brace patterns allowed: train-{000000..000005}.tar"),
      text_list(
          "data.validation", true, [](Config & c) -> auto& { return c.data.validation; },
          "Shards to validate on; empty: no validation"),
      integer(
          "data.image_size", {1, 4096}, [](Config & c) -> auto& { return c.data.image_size; },
          "Pixels of an image's side as the encoder sees it"),
      number_list(
          "data.image_mean", 3, {}, [](Config & c) -> auto& { return c.data.image_mean; },
          "Subtracted from red, green and blue (0 to 1)"),
      number_list(
          "data.image_std", 3, kPositive, [](Config & c) -> auto& { return c.data.image_std; },
          "Divides red, green and blue after that"),
      boolean(
          "data.augmentation.random_resized_crop",
          [](Config & c) -> auto& { return c.data.augmentation.random_resized_crop; },
          "Train on random crops; else on the whole picture's centre. Never flips: left stays left"),
      number(
          "data.augmentation.scale_min", kPositiveFraction,
          [](Config & c) -> auto& { return c.data.augmentation.scale_min; },
          "Smallest crop, as a share of the picture's area"),
      number(
          "data.augmentation.scale_max", kPositiveFraction,
          [](Config & c) -> auto& { return c.data.augmentation.scale_max; },
          "Largest crop, as a share of the picture's area"),
      number(
          "data.augmentation.ratio_min", kPositive,
          [](Config & c) -> auto& { return c.data.augmentation.ratio_min; },
          "Narrowest crop, width divided by height"),
      number(
          "data.augmentation.ratio_max", kPositive,
          [](Config & c) -> auto& { return c.data.augmentation.ratio_max; },
          "Widest crop, width divided by height"),
      integer(
          "data.batch_size", {1, 1 << 20}, [](Config & c) -> auto& { return c.data.batch_size; },
          "Pairs that each rank takes a step"),
      boolean(
          "data.drop_last", [](Config & c) -> auto& { return c.data.drop_last; },
          "Leave out an epoch's last batch where it is short"),
      integer(
          "data.workers", {1, 1024}, [](Config & c) -> auto& { return c.data.workers; },
          "Threads of each rank that read and decode images"),
      integer(
          "data.prefetch_batches", {1, 1024}, [](Config & c) -> auto& { return c.data.prefetch_batches; },
          "Batches kept ready ahead of the training step"),
      number(
          "data.max_broken_fraction", kFraction,
          [](Config & c) -> auto& { return c.data.max_broken_fraction; },
          "A larger share of unreadable samples than this stops the run"),
  };
}

std::vector<ConfigKey> architecture_keys() {
  return {
      integer(
          "vision.architecture.hidden_size", {1, 1 << 16},
          [](Config & c) -> auto& { return c.vision.architecture.hidden_size; }, "Width of a token"),
      integer(
          "vision.architecture.num_hidden_layers", {1, 1024},
          [](Config & c) -> auto& { return c.vision.architecture.num_hidden_layers; }, "Transformer layers"),
      integer(
          "vision.architecture.num_attention_heads", {1, 1024},
          [](Config & c) -> auto& { return c.vision.architecture.num_attention_heads; },
          "Attention heads; hidden_size is a multiple of it"),
      integer(
          "vision.architecture.mlp_ratio", {1, 64},
          [](Config & c) -> auto& { return c.vision.architecture.mlp_ratio; },
          "Width of the feed-forward part, in hidden sizes"),
      integer(
          "vision.architecture.image_size", {1, 4096},
          [](Config & c) -> auto& { return c.vision.architecture.image_size; },
          "Pixels of a side for which position embeddings are stored; a multiple of patch_size"),
      integer(
          "vision.architecture.patch_size", {1, 256},
          [](Config & c) -> auto& { return c.vision.architecture.patch_size; }, "Pixels of a patch's side"),
      integer(
          "vision.architecture.num_register_tokens", {0, 1024},
          [](Config & c) -> auto& { return c.vision.architecture.num_register_tokens; },
          "Register tokens after [CLS]"),
      number(
          "vision.architecture.layerscale_value", kPositive,
          [](Config & c) -> auto& { return c.vision.architecture.layerscale_value; },
          "Initial value of the LayerScale factors"),
      number(
          "vision.architecture.layer_norm_eps", kPositive,
          [](Config & c) -> auto& { return c.vision.architecture.layer_norm_eps; },
          "Added to the variance in layer norms"),
  };
}

std::vector<ConfigKey> vision_keys() {
  auto keys = std::vector<ConfigKey>{
      text(
          "vision.weights", TextKind::kInputPathOrRandom,
          [](Config & c) -> auto& { return c.vision.weights; },
          "DINOv2: a Hugging Face folder, a .safetensors, .bin, .pth or .pt file (facebook's too); random: "
          "vision.architecture, drawn from the seed"),
      words<TrainableChoice>(
          "vision.trainable",
          {{"none", TrainableChoice::kNone},
           {"lora", TrainableChoice::kLora},
           {"full", TrainableChoice::kFull}},
          [](Config & c) -> auto& { return c.vision.trainable; },
          "What of the encoder trains: nothing, LoRA adapters (two phases), or all of it"),
      words<PositionInterpolation>(
          "vision.position_interpolation",
          {{"auto", PositionInterpolation::kAuto},
           {"scale_factor", PositionInterpolation::kScaleFactor},
           {"size", PositionInterpolation::kSize},
           {"size_antialias", PositionInterpolation::kSizeAntialias}},
          [](Config & c) -> auto& { return c.vision.position_interpolation; },
          "How position embeddings are brought to another image size; auto: as the weights were trained"),
      boolean(
          "vision.gradient_checkpointing",
          [](Config & c) -> auto& { return c.vision.gradient_checkpointing; },
          "Keep the encoder's blocks' inputs alone and compute the rest again backwards: less memory, more "
          "time"),
  };
  auto architecture = architecture_keys();
  std::move(architecture.begin(), architecture.end(), std::back_inserter(keys));
  return keys;
}

std::vector<ConfigKey> lora_keys() {
  return {
      integer(
          "lora.r", {1, 1 << 14}, [](Config & c) -> auto& { return c.lora.r; }, "Rank of the adapters"),
      number(
          "lora.lora_alpha", kPositive, [](Config & c) -> auto& { return c.lora.lora_alpha; },
          "An adapter's product is scaled by lora_alpha / r"),
      number(
          "lora.lora_dropout", kBelowOne, [](Config & c) -> auto& { return c.lora.lora_dropout; },
          "Dropout on an adapter's input"),
      modules(
          "lora.target_modules", [](Config & c) -> auto& { return c.lora.target_modules; },
          "The Linear modules to adapt: ends of their names, an expression for whole names, or all-linear"),
      modules(
          "lora.exclude_modules", [](Config & c) -> auto& { return c.lora.exclude_modules; },
          "What is left out of them: ends of names, or an expression"),
      integer_list(
          "lora.layers_to_transform", {0, 1 << 14},
          [](Config & c) -> auto& { return c.lora.layers_to_transform; },
          "Numbers of the layers to adapt, from 0; empty: all"),
      text_list(
          "lora.layers_pattern", false, [](Config & c) -> auto& { return c.lora.layers_pattern; },
          "What a layer's number stands behind, such as layer; empty: anything"),
      named<std::int64_t>(
          "lora.rank_pattern", IntegerRange{1, 1 << 14},
          [](Config & c) -> auto& { return c.lora.rank_pattern; },
          "Ranks of modules whose names end in an expression; the first that matches counts"),
      named<double>(
          "lora.alpha_pattern", kPositive, [](Config & c) -> auto& { return c.lora.alpha_pattern; },
          "The same for lora_alpha"),
      words<LoraInit>(
          "lora.init_lora_weights",
          {{"true", LoraInit::kUniform},
           {"false", LoraInit::kNone},
           {"gaussian", LoraInit::kGaussian},
           {"pissa", LoraInit::kPissa},
           {"olora", LoraInit::kOlora}},
          [](Config & c) -> auto& { return c.lora.init_lora_weights; },
          "How adapters begin; true: without any effect; pissa and olora take them out of trained weights"),
      words<LoraBias>(
          "lora.bias",
          {{"none", LoraBias::kNone}, {"all", LoraBias::kAll}, {"lora_only", LoraBias::kLoraOnly}},
          [](Config & c) -> auto& { return c.lora.bias; },
          "The encoder's biases that train and are saved with the adapter; lora_only: of adapted modules"),
      text_list(
          "lora.modules_to_save", false, [](Config & c) -> auto& { return c.lora.modules_to_save; },
          "Ends of the names of modules that train whole and are saved with the adapter"),
      boolean(
          "lora.use_dora", [](Config & c) -> auto& { return c.lora.use_dora; },
          "DoRA: a magnitude a row beside the low-rank direction"),
      boolean(
          "lora.use_rslora", [](Config & c) -> auto& { return c.lora.use_rslora; },
          "Scale by lora_alpha / sqrt(r) instead"),
      text(
          "lora.adapter", TextKind::kInputPath, [](Config & c) -> auto& { return c.lora.adapter; },
          "PEFT folder whose adapters the run starts from, with their own options in place of those here; "
          "empty: "
          "fresh ones"),
  };
}

std::vector<ConfigKey> compressor_keys() {
  return {
      integer(
          "compressor.hidden_size", {1, 1 << 16},
          [](Config & c) -> auto& { return c.compressor.hidden_size; }, "Width between its two layers"),
      integer(
          "compressor.output_size", {1, 1 << 16},
          [](Config & c) -> auto& { return c.compressor.output_size; }, "Width of a compressed image token"),
      number(
          "compressor.dropout", kBelowOne, [](Config & c) -> auto& { return c.compressor.dropout; },
          "Dropout between its two layers"),
  };
}

std::vector<ConfigKey> language_keys() {
  return {
      text(
          "language.tokenizer", TextKind::kInputPath,
          [](Config & c) -> auto& { return c.language.tokenizer; },
          "SentencePiece .model file, as `tessera train-tokenizer` writes it"),
      text(
          "language.weights", TextKind::kInputPathOrRandom,
          [](Config & c) -> auto& { return c.language.weights; },
          "Hugging Face LlamaForCausalLM folder (.safetensors or .bin, also in shards); random: drawn from "
          "the seed"),
      integer(
          "language.vocab_size", {5, 1 << 24}, [](Config & c) -> auto& { return c.language.vocab_size; },
          "Rows of the token embedding: as many as the tokenizer has entries"),
      integer(
          "language.hidden_size", {2, 1 << 16}, [](Config & c) -> auto& { return c.language.hidden_size; },
          "Width of a token"),
      integer(
          "language.num_hidden_layers", {1, 1024},
          [](Config & c) -> auto& { return c.language.num_hidden_layers; }, "Transformer layers"),
      integer(
          "language.num_attention_heads", {1, 1024},
          [](Config & c) -> auto& { return c.language.num_attention_heads; },
          "Attention heads; hidden_size is an even multiple of it"),
      integer(
          "language.intermediate_size", {1, 1 << 20},
          [](Config & c) -> auto& { return c.language.intermediate_size; },
          "Width of the SwiGLU feed-forward part"),
      integer(
          "language.max_position_embeddings", {2, 1 << 20},
          [](Config & c) -> auto& { return c.language.max_position_embeddings; },
          "Longest sequence that the model takes"),
      number(
          "language.rope_theta", kPositive, [](Config & c) -> auto& { return c.language.rope_theta; },
          "Base of the rotary position embedding"),
      number(
          "language.rms_norm_eps", kPositive, [](Config & c) -> auto& { return c.language.rms_norm_eps; },
          "Added to the mean square in RMS norms"),
      integer(
          "language.max_tokens", {3, 1 << 20}, [](Config & c) -> auto& { return c.language.max_tokens; },
          "A caption is cut to so many tokens, begin and end included; its end token stays"),
  };
}

}  // namespace

const std::vector<ConfigKey>& config_keys() {
  static const std::vector<ConfigKey> keys = [] {
    std::vector<ConfigKey> all;
    for (auto part : {run_keys(), data_keys(), vision_keys(), lora_keys(), compressor_keys(), language_keys(),
                      training_config_keys()}) {
      std::move(part.begin(), part.end(), std::back_inserter(all));
    }
    return all;
  }();
  return keys;
}

const std::vector<ConfigSection>& config_sections() {
  static const std::vector<ConfigSection> sections = {
      {"run", "The run as a whole"},
      {"data", "Pictures and captions"},
      {"data.augmentation", "Random crops"},
      {"vision", "The image encoder, a DINOv2"},
      {"vision.architecture", "Used where vision.weights is random; names as in a Hugging Face config.json"},
      {"lora", "Low-rank adapters of the encoder (vision.trainable: lora); names as in PEFT"},
      {"compressor", "From the encoder's tokens to few numbers a token"},
      {"language", "The language model, Llama-shaped; sizes are read where language.weights is random"},
      {"fusion", "Where image and text meet"},
      {"memory", "Episodic memory of image-caption pairs"},
      {"losses", "What is minimised"},
      {"losses.itc", "Image-text contrast"},
      {"losses.itc.queue", "Negatives from past batches"},
      {"losses.itm", "Image-text matching"},
      {"losses.maxsim", "Contrast by late interaction"},
      {"losses.caption", "Next-token loss of captions that see the image"},
      {"losses.memory", "What the memory episode minimises"},
      {"schedule", "Phases and learning rates"},
      {"schedule.multipliers", "Factors on schedule.learning_rate by part"},
      {"optimizer", "AdamW"},
      {"checkpoint", "When state is saved, and what is kept"},
      {"eval", "Validation while training"},
  };
  return sections;
}

}  // namespace tessera
