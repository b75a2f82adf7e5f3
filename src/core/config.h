#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace tessera {

// The typed form of a configuration file. Meaning and range of every key stand in one table, in two files
// (config_schema.cpp, config_schema_training.cpp); the members here mirror its sections, with the defaults.

enum class DeviceChoice { kAuto, kCpu, kCuda };
enum class PrecisionChoice { kAuto, kFp32, kBf16 };
enum class TrainableChoice { kNone, kLora, kFull };
enum class PositionInterpolation { kAuto, kScaleFactor, kSize, kSizeAntialias };
enum class SameId { kIgnore, kPositive };
enum class RebuildChoice { kCarry, kReset };
enum class DecayChoice { kCosine, kLinear, kConstant };

struct RunConfig {
  std::string name = "stage1";
  std::string output_dir = "runs";
  std::string log_dir = "logs";
  std::int64_t seed = 0;
  DeviceChoice device = DeviceChoice::kAuto;
  PrecisionChoice precision = PrecisionChoice::kAuto;
  std::int64_t threads = 0;     ///< 0: as many as the machine gives
  std::int64_t log_every = 10;  ///< steps between logged metrics

  bool operator==(const RunConfig&) const = default;
};

struct AugmentationConfig {
  bool random_resized_crop = true;
  double scale_min = 0.5;
  double scale_max = 1.0;
  double ratio_min = 0.75;
  double ratio_max = 1.3333;

  bool operator==(const AugmentationConfig&) const = default;
};

/// Of a CSV or TSV file; names of columns, empty: a usual one, or by place (data/caption_table.h).
struct TableConfig {
  std::string image;
  std::string caption;
  std::string image_id;
  std::string folder;  ///< that pictures' paths are relative to; empty: the table's own

  bool operator==(const TableConfig&) const = default;
};

struct DataConfig {
  std::vector<std::string> train;  ///< patterns of files, resolved against the config file's folder
  std::vector<std::string> validation;
  TableConfig table;
  std::int64_t image_size = 224;
  std::vector<double> image_mean = {0.485, 0.456, 0.406};
  std::vector<double> image_std = {0.229, 0.224, 0.225};
  AugmentationConfig augmentation;
  std::int64_t batch_size = 64;  ///< per rank
  bool drop_last = true;         ///< leave out an epoch's last, short batch
  std::int64_t workers = 2;
  std::int64_t prefetch_batches = 4;
  double max_broken_fraction = 0.01;

  bool operator==(const DataConfig&) const = default;
};

/// Keys are those of Hugging Face's config.json.
struct ArchitectureConfig {
  std::int64_t hidden_size = 768;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 12;
  std::int64_t mlp_ratio = 4;
  std::int64_t image_size = 518;
  std::int64_t patch_size = 14;
  std::int64_t num_register_tokens = 0;
  double layerscale_value = 1.0;
  double layer_norm_eps = 1e-6;

  bool operator==(const ArchitectureConfig&) const = default;
};

struct VisionConfig {
  std::string weights;              ///< folder or file, or "random"; there is no default
  ArchitectureConfig architecture;  ///< used where weights is "random"
  TrainableChoice trainable = TrainableChoice::kLora;
  PositionInterpolation position_interpolation = PositionInterpolation::kAuto;
  bool gradient_checkpointing = false;  ///< less memory, more time in the encoder

  bool operator==(const VisionConfig&) const = default;
};

/// How an adapter begins (PEFT's init_lora_weights).
enum class LoraInit {
  kUniform,  ///< true: A uniform in ±1/√in (kaiming_uniform with a = √5), B zero: nothing changes at first
  kNone,     ///< false: B is random too, uniform in ±1/√r; for tests
  kGaussian,  ///< A normal with deviation 1/r, B zero
  kPissa,     ///< the base weight's greatest singular values, taken out of it (Meng et al. 2024)
  kOlora,     ///< the first columns of its QR factorisation, taken out of it (Büyükakyüz 2024)
};

/// Which biases of the base model train and are saved with the adapter.
enum class LoraBias { kNone, kAll, kLoraOnly };

/// What PEFT's target_modules and exclude_modules may say: names of modules, or an expression.
struct ModuleSelection {
  std::vector<std::string> names;  ///< ends of paths, whole segments; or the one word "all-linear"
  std::string pattern;             ///< in place of names: a regular expression for whole paths

  ModuleSelection() = default;
  ModuleSelection(std::vector<std::string> some) : names(std::move(some)) {}
  ModuleSelection(std::initializer_list<std::string> some) : names(some) {}
  /// PEFT's one text: the word "all-linear", or an expression.
  static ModuleSelection from_text(std::string text);

  bool is_all_linear() const { return names.size() == 1 && names.front() == "all-linear"; }
  bool empty() const { return names.empty() && pattern.empty(); }
  bool operator==(const ModuleSelection&) const = default;
};

/// PEFT's fields under PEFT's names; what they mean stands at vision::LoraOptions.
struct LoraConfig {
  std::int64_t r = 16;
  double lora_alpha = 32;
  double lora_dropout = 0.1;
  ModuleSelection target_modules = {"query", "value"};
  ModuleSelection exclude_modules;
  std::vector<std::int64_t> layers_to_transform;
  std::vector<std::string> layers_pattern;
  std::vector<std::pair<std::string, std::int64_t>> rank_pattern;
  std::vector<std::pair<std::string, double>> alpha_pattern;
  bool use_rslora = false;
  bool use_dora = false;
  LoraBias bias = LoraBias::kNone;
  std::vector<std::string> modules_to_save;
  LoraInit init_lora_weights = LoraInit::kUniform;
  std::string adapter;  ///< PEFT folder to start from; empty: fresh adapters

  bool operator==(const LoraConfig&) const = default;
};

struct CompressorConfig {
  std::int64_t hidden_size = 384;
  std::int64_t output_size = 128;
  double dropout = 0.1;

  bool operator==(const CompressorConfig&) const = default;
};

struct LanguageConfig {
  std::string tokenizer;           ///< SentencePiece .model
  std::string weights = "random";  ///< or a Hugging Face LlamaForCausalLM folder
  std::int64_t vocab_size = 8192;
  std::int64_t hidden_size = 384;
  std::int64_t num_hidden_layers = 12;
  std::int64_t num_attention_heads = 6;
  std::int64_t intermediate_size = 1024;
  std::int64_t max_position_embeddings = 512;
  double rope_theta = 10000.0;
  double rms_norm_eps = 1e-5;
  std::int64_t max_tokens = 64;  ///< a caption is cut to this many tokens; its end token stays

  bool operator==(const LanguageConfig&) const = default;
};

struct FusionConfig {
  std::int64_t embedding_size = 128;  ///< of the ITC embeddings
  std::int64_t token_size = 128;      ///< of the token embeddings that MaxSim compares
  std::int64_t levels = 6;            ///< image blocks, and top layers of the language model that read images
  std::int64_t image_attention_heads = 4;
  std::int64_t image_mlp_ratio = 4;
  std::int64_t cross_attention_heads = 4;

  bool operator==(const FusionConfig&) const = default;
};

struct MemoryConfig {
  std::int64_t slots = 256;      ///< K, fewer than code_size
  std::int64_t code_size = 384;  ///< C
  std::int64_t episode = 16;     ///< pairs written together, consecutive samples of the global order
  double noise = 1e-3;           ///< on codes when they are written and read in training
  double drop_text = 0.5;        ///< share of queries that are codes of the image alone
  double drop_image = 0.2;       ///< share of queries that are codes of the text alone
  double caption_share =
      0.25;  ///< share of the captions that see a read-out of an episode without their pair
  std::int64_t read_tokens = 4;  ///< tokens that a read-out becomes for the decoder

  bool operator==(const MemoryConfig&) const = default;
};

struct QueueConfig {
  std::int64_t size = 4096;  ///< 0: no queue
  SameId same_id = SameId::kIgnore;
  double max_shift = 0.1;  ///< nats; 0 switches the staleness rule off
  std::int64_t probe_pairs = 32;
  std::int64_t probe_every = 25;  ///< steps

  bool operator==(const QueueConfig&) const = default;
};

struct ItcConfig {
  double weight = 1.0;
  std::int64_t from_epoch = 1;  ///< the first in which it is trained, counted from 1; of each loss
  double temperature = 0.07;
  double temperature_min = 0.01;
  QueueConfig queue;

  bool operator==(const ItcConfig&) const = default;
};

/// Off unless it is given a weight.
struct SiglipConfig {
  double weight = 0.0;
  std::int64_t from_epoch = 1;
  double temperature = 0.1;
  double temperature_min = 0.01;
  double bias = -10.0;

  bool operator==(const SiglipConfig&) const = default;
};

struct ItmConfig {
  double weight = 1.0;
  std::int64_t from_epoch = 1;
  double uniform_share = 0.0;  ///< of the negatives' draws that disregard similarity

  bool operator==(const ItmConfig&) const = default;
};

struct MaxSimConfig {
  double weight = 1.0;
  std::int64_t from_epoch = 1;
  double temperature = 0.07;
  double temperature_min = 0.01;

  bool operator==(const MaxSimConfig&) const = default;
};

struct CaptionConfig {
  double weight = 1.0;
  std::int64_t from_epoch = 1;

  bool operator==(const CaptionConfig&) const = default;
};

struct MemoryLossConfig {
  double weight = 1.0;  ///< reconstruction from the read-out, and the whole episode: 0 skips it
  std::int64_t from_epoch = 1;
  double alignment = 1.0;  ///< mean squared distance of the read-out from the code
  double kl = 0.01;        ///< KL of the address from a standard normal

  bool operator==(const MemoryLossConfig&) const = default;
};

struct LossesConfig {
  ItcConfig itc;
  SiglipConfig siglip;
  ItmConfig itm;
  MaxSimConfig maxsim;
  CaptionConfig caption;
  MemoryLossConfig memory;

  bool operator==(const LossesConfig&) const = default;
};

/// What a loss teaches a model, which may then be asked for it. Several losses may teach the same.
enum class Ability {
  kEmbeddings,       ///< one vector an image and one a text: retrieval, zero-shot classification
  kTokenEmbeddings,  ///< one vector a patch and one a token: late interaction, heat maps
  kMatching,         ///< judging pairs: re-ranking
  kCaptions,         ///< writing captions
  kMemory,           ///< writing pairs into the episodic memory, and recalling them
};

/// Calls visit(name, part, ability) for each loss: its name under `losses` in a configuration, its own part
/// of a LossesConfig, which has at least a weight and a from_epoch, and what it teaches.
template <typename Losses, typename Visit>
void for_each_loss(Losses& losses, const Visit& visit) {
  visit("itc", losses.itc, Ability::kEmbeddings);
  visit("siglip", losses.siglip, Ability::kEmbeddings);
  visit("itm", losses.itm, Ability::kMatching);
  visit("maxsim", losses.maxsim, Ability::kTokenEmbeddings);
  visit("caption", losses.caption, Ability::kCaptions);
  visit("memory", losses.memory, Ability::kMemory);
}

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

struct Config {
  RunConfig run;
  DataConfig data;
  VisionConfig vision;
  LoraConfig lora;
  CompressorConfig compressor;
  LanguageConfig language;
  FusionConfig fusion;
  MemoryConfig memory;
  LossesConfig losses;
  ScheduleConfig schedule;
  OptimizerConfig optimizer;
  CheckpointConfig checkpoint;
  EvalConfig eval;
  std::string init_from;  ///< checkpoint folder whose weights a new run starts from

  bool operator==(const Config&) const = default;
};

/// Reads a configuration file and applies `KEY.PATH=VALUE` overrides. Relative input paths (data, weights,
/// tokenizer, adapter, init_from) resolve against the file's folder, those given in overrides against the
/// working folder; both become absolute. An empty path stays empty, `~` is not expanded.
/// @throws ConfigError "FILE:LINE:COLUMN: what is wrong, what is accepted" for an unknown key, a wrong type
///         or a value out of range; overrides are named "--set KEY"
Config load_config(const std::filesystem::path& file, const std::vector<std::string>& overrides = {});

/// The same from text, with `name` standing for the file in messages and `folder` for its folder.
Config parse_config(const std::string& yaml, const std::string& name, const std::filesystem::path& folder,
                    const std::vector<std::string>& overrides = {});

/// The resolved configuration as YAML that load_config reads back to the same values.
std::string to_yaml(const Config& config);

/// A default file with every key commented by meaning, range and default (--help-config).
std::string commented_default_config();

/// docs/configuration.md.
std::string configuration_markdown();

}  // namespace tessera
