#include "core/config_schema.h"

#include <iterator>

#include "core/config_rows.h"

namespace tessera {

namespace {

using namespace config_rows;

std::vector<ConfigKey> run_keys() {
  return {
      TESSERA_KEY(text, run.name, TextKind::kName,
                  "Names the run's folders, OUTPUT_DIR/NAME and LOG_DIR/NAME"),
      TESSERA_KEY(
          text, run.output_dir, TextKind::kFolder,
          "Holds the run folders (checkpoints, metrics, resolved config); relative to the working folder"),
      TESSERA_KEY(text, run.log_dir, TextKind::kFolder,
                  "Gets NAME/training.log, a copy of the run folder's log; relative to the working folder"),
      TESSERA_KEY(integer, run.seed, {0, kUnbounded},
                  "Decides everything that is drawn: initial weights, shuffling, captions, augmentation"),
      TESSERA_KEY(words<DeviceChoice>, run.device,
                  {{"auto", DeviceChoice::kAuto}, {"cpu", DeviceChoice::kCpu}, {"cuda", DeviceChoice::kCuda}},
                  "Where to compute; auto takes a GPU where this build and machine have one"),
      TESSERA_KEY(
          words<PrecisionChoice>, run.precision,
          {{"auto", PrecisionChoice::kAuto},
           {"fp32", PrecisionChoice::kFp32},
           {"bf16", PrecisionChoice::kBf16}},
          "Of matrix products; parameters stay fp32. auto: bf16 on a GPU that computes in it, else fp32"),
      TESSERA_KEY(integer, run.threads, {0, 4096},
                  "CPU threads of one operation; 0: as many as the machine or a control group's quota gives"),
      TESSERA_KEY(integer, run.log_every, {1, kUnbounded}, "Steps between two logged lines of metrics"),
  };
}

std::vector<ConfigKey> data_keys() {
  return {
      TESSERA_KEY(
          text_list, data.train, true,
          "WebDataset shards or CSV or TSV tables to train on, braces allowed: train-{000000..000005}.tar"),
      TESSERA_KEY(text_list, data.validation, true, "The same to validate on; empty: no validation"),
      TESSERA_KEY(
          text, data.table.image, TextKind::kText,
          "Column of the pictures' paths; empty: one of a usual name, or the first where there is no header"),
      TESSERA_KEY(
          text, data.table.caption, TextKind::kText,
          "Column of the captions; empty: one of a usual name, or the second where there is no header"),
      TESSERA_KEY(text, data.table.image_id, TextKind::kText,
                  "Column that tells which pictures show the same; empty: image_id where there is one, else "
                  "the path"),
      TESSERA_KEY(text, data.table.folder, TextKind::kInputPath,
                  "Folder that the pictures' paths are relative to; empty: the table's own"),
      TESSERA_KEY(integer, data.image_size, {1, 4096}, "Pixels of an image's side as the encoder sees it"),
      TESSERA_KEY(number_list, data.image_mean, 3, {}, "Subtracted from red, green and blue (0 to 1)"),
      TESSERA_KEY(number_list, data.image_std, 3, kPositive, "Divides red, green and blue after that"),
      TESSERA_KEY(boolean, data.augmentation.random_resized_crop,
                  "Train on random crops; else on the whole picture's centre. Never flips: left stays left"),
      TESSERA_KEY(number, data.augmentation.scale_min, kPositiveFraction,
                  "Smallest crop, as a share of the picture's area"),
      TESSERA_KEY(number, data.augmentation.scale_max, kPositiveFraction,
                  "Largest crop, as a share of the picture's area"),
      TESSERA_KEY(number, data.augmentation.ratio_min, kPositive, "Narrowest crop, width divided by height"),
      TESSERA_KEY(number, data.augmentation.ratio_max, kPositive, "Widest crop, width divided by height"),
      TESSERA_KEY(integer, data.batch_size, {1, 1 << 20}, "Pairs that each rank takes a step"),
      TESSERA_KEY(boolean, data.drop_last, "Leave out an epoch's last batch where it is short"),
      TESSERA_KEY(integer, data.workers, {1, 1024}, "Threads of each rank that read and decode images"),
      TESSERA_KEY(integer, data.prefetch_batches, {1, 1024}, "Batches kept ready ahead of the training step"),
      TESSERA_KEY(number, data.max_broken_fraction, kFraction,
                  "A larger share of unreadable samples than this stops the run"),
  };
}

std::vector<ConfigKey> architecture_keys() {
  return {
      TESSERA_KEY(integer, vision.architecture.hidden_size, {1, 1 << 16}, "Width of a token"),
      TESSERA_KEY(integer, vision.architecture.num_hidden_layers, {1, 1024}, "Transformer layers"),
      TESSERA_KEY(integer, vision.architecture.num_attention_heads, {1, 1024},
                  "Attention heads; hidden_size is a multiple of it"),
      TESSERA_KEY(integer, vision.architecture.mlp_ratio, {1, 64},
                  "Width of the feed-forward part, in hidden sizes"),
      TESSERA_KEY(integer, vision.architecture.image_size, {1, 4096},
                  "Pixels of a side for which position embeddings are stored; a multiple of patch_size"),
      TESSERA_KEY(integer, vision.architecture.patch_size, {1, 256}, "Pixels of a patch's side"),
      TESSERA_KEY(integer, vision.architecture.num_register_tokens, {0, 1024}, "Register tokens after [CLS]"),
      TESSERA_KEY(number, vision.architecture.layerscale_value, kPositive,
                  "Initial value of the LayerScale factors"),
      TESSERA_KEY(number, vision.architecture.layer_norm_eps, kPositive,
                  "Added to the variance in layer norms"),
  };
}

std::vector<ConfigKey> vision_keys() {
  auto keys = std::vector<ConfigKey>{
      TESSERA_KEY(
          text, vision.weights, TextKind::kInputPathOrRandom,
          "DINOv2: a Hugging Face folder, a .safetensors, .bin, .pth or .pt file (facebook's too); random: "
          "vision.architecture, drawn from the seed"),
      TESSERA_KEY(words<TrainableChoice>, vision.trainable,
                  {{"none", TrainableChoice::kNone},
                   {"lora", TrainableChoice::kLora},
                   {"full", TrainableChoice::kFull}},
                  "What of the encoder trains: nothing, LoRA adapters (two phases), or all of it"),
      TESSERA_KEY(
          words<PositionInterpolation>, vision.position_interpolation,
          {{"auto", PositionInterpolation::kAuto},
           {"scale_factor", PositionInterpolation::kScaleFactor},
           {"size", PositionInterpolation::kSize},
           {"size_antialias", PositionInterpolation::kSizeAntialias}},
          "How position embeddings are brought to another image size; auto: as the weights were trained"),
      TESSERA_KEY(
          boolean, vision.gradient_checkpointing,
          "Keep the encoder's blocks' inputs alone and compute the rest again backwards: less memory, more "
          "time"),
  };
  auto architecture = architecture_keys();
  std::move(architecture.begin(), architecture.end(), std::back_inserter(keys));
  return keys;
}

std::vector<ConfigKey> lora_keys() {
  return {
      TESSERA_KEY(integer, lora.r, {1, 1 << 14}, "Rank of the adapters"),
      TESSERA_KEY(number, lora.lora_alpha, kPositive, "An adapter's product is scaled by lora_alpha / r"),
      TESSERA_KEY(number, lora.lora_dropout, kBelowOne, "Dropout on an adapter's input"),
      TESSERA_KEY(
          modules, lora.target_modules,
          "The Linear modules to adapt: ends of their names, an expression for whole names, or all-linear"),
      TESSERA_KEY(modules, lora.exclude_modules, "What is left out of them: ends of names, or an expression"),
      TESSERA_KEY(integer_list, lora.layers_to_transform, {0, 1 << 14},
                  "Numbers of the layers to adapt, from 0; empty: all"),
      TESSERA_KEY(text_list, lora.layers_pattern, false,
                  "What a layer's number stands behind, such as layer; empty: anything"),
      TESSERA_KEY(named<std::int64_t>, lora.rank_pattern, IntegerRange{1, 1 << 14},
                  "Ranks of modules whose names end in an expression; the first that matches counts"),
      TESSERA_KEY(named<double>, lora.alpha_pattern, kPositive, "The same for lora_alpha"),
      TESSERA_KEY(
          words<LoraInit>, lora.init_lora_weights,
          {{"true", LoraInit::kUniform},
           {"false", LoraInit::kNone},
           {"gaussian", LoraInit::kGaussian},
           {"pissa", LoraInit::kPissa},
           {"olora", LoraInit::kOlora}},
          "How adapters begin; true: without any effect; pissa and olora take them out of trained weights"),
      TESSERA_KEY(
          words<LoraBias>, lora.bias,
          {{"none", LoraBias::kNone}, {"all", LoraBias::kAll}, {"lora_only", LoraBias::kLoraOnly}},
          "The encoder's biases that train and are saved with the adapter; lora_only: of adapted modules"),
      TESSERA_KEY(text_list, lora.modules_to_save, false,
                  "Ends of the names of modules that train whole and are saved with the adapter"),
      TESSERA_KEY(boolean, lora.use_dora, "DoRA: a magnitude a row beside the low-rank direction"),
      TESSERA_KEY(boolean, lora.use_rslora, "Scale by lora_alpha / sqrt(r) instead"),
      TESSERA_KEY(
          text, lora.adapter, TextKind::kInputPath,
          "PEFT folder whose adapters the run starts from, with their own options in place of those here; "
          "empty: fresh ones"),
  };
}

std::vector<ConfigKey> compressor_keys() {
  return {
      TESSERA_KEY(integer, compressor.hidden_size, {1, 1 << 16}, "Width between its two layers"),
      TESSERA_KEY(integer, compressor.output_size, {1, 1 << 16}, "Width of a compressed image token"),
      TESSERA_KEY(number, compressor.dropout, kBelowOne, "Dropout between its two layers"),
  };
}

std::vector<ConfigKey> language_keys() {
  return {
      TESSERA_KEY(text, language.tokenizer, TextKind::kInputPath,
                  "SentencePiece .model file, as `tessera train-tokenizer` writes it"),
      TESSERA_KEY(
          text, language.weights, TextKind::kInputPathOrRandom,
          "Hugging Face LlamaForCausalLM folder (.safetensors or .bin, also in shards); random: drawn from "
          "the seed"),
      TESSERA_KEY(integer, language.vocab_size, {5, 1 << 24},
                  "Rows of the token embedding: as many as the tokenizer has entries"),
      TESSERA_KEY(integer, language.hidden_size, {2, 1 << 16}, "Width of a token"),
      TESSERA_KEY(integer, language.num_hidden_layers, {1, 1024}, "Transformer layers"),
      TESSERA_KEY(integer, language.num_attention_heads, {1, 1024},
                  "Attention heads; hidden_size is an even multiple of it"),
      TESSERA_KEY(integer, language.intermediate_size, {1, 1 << 20}, "Width of the SwiGLU feed-forward part"),
      TESSERA_KEY(integer, language.max_position_embeddings, {2, 1 << 20},
                  "Longest sequence that the model takes"),
      TESSERA_KEY(number, language.rope_theta, kPositive, "Base of the rotary position embedding"),
      TESSERA_KEY(number, language.rms_norm_eps, kPositive, "Added to the mean square in RMS norms"),
      TESSERA_KEY(integer, language.max_tokens, {3, 1 << 20},
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
      {"data.table", "Columns of a CSV or TSV table of pictures and captions"},
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
      {"losses.siglip", "Image-text contrast by sigmoids, pair by pair (SigLIP)"},
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
