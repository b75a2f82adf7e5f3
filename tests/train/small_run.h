#pragma once

#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>

#include "config/config.h"
#include "core/logging.h"
#include "data/open_source.h"
#include "language/tokenizer_training.h"
#include "shapes/make_shapes.h"

namespace tessera::train {

/// A folder with a tiny "shapes" set and tokenizer, and configurations of tiny runs over them; removed at the
/// end.
class SmallRun {
 public:
  explicit SmallRun(const std::string& name)
      : root_(std::filesystem::temp_directory_path() / (name + "-" + std::to_string(getpid()))) {
    std::filesystem::remove_all(root_);
    shapes::make_shapes({.output = root_ / "shapes",
                         .train_count = 44,
                         .held_out_count = 12,
                         .image_size = 42,
                         .shard_size = 30,
                         .seed = 5});
    language::train_tokenizer(
        {"a small red circle is left of a large blue square", "above below right of green"},
        root_ / "tokenizer.model", {.vocab_size = 300, .hard_vocab_limit = false});
  }
  ~SmallRun() { std::filesystem::remove_all(root_); }
  SmallRun(const SmallRun&) = delete;
  SmallRun& operator=(const SmallRun&) = delete;

  std::shared_ptr<const data::Source> training_data() const {
    return data::open_source(config("any").data.train, {}, null_logger());
  }

  /// 44 scenes in batches of 8, the last one short: 6 steps an epoch, 4 epochs, LoRA from the third on.
  Config config(const std::string& name) const {
    Config config;
    config.run.name = name;
    config.run.output_dir = (root_ / "runs").string();
    config.run.log_dir = (root_ / "logs").string();
    config.run.device = DeviceChoice::kCpu;
    config.run.precision = PrecisionChoice::kFp32;
    config.run.seed = 3;
    config.run.threads =
        1;  // so small that threads only wait for each other, all the more beside other tests
    config.run.log_every = 1;
    config.data.train = {(root_ / "shapes" / "train-{000000..000001}.tar").string()};
    config.data.validation = {(root_ / "shapes" / "val-000000.tar").string()};
    config.data.image_size = 42;
    config.data.batch_size = 8;
    config.data.drop_last = false;
    config.vision.weights = "random";
    config.vision.architecture = {.hidden_size = 24,
                                  .num_hidden_layers = 2,
                                  .num_attention_heads = 2,
                                  .mlp_ratio = 2,
                                  .image_size = 42,
                                  .patch_size = 14};
    config.lora.r = 4;
    config.compressor.hidden_size = 24;
    config.compressor.output_size = 16;
    config.language.tokenizer = (root_ / "tokenizer.model").string();
    config.language.vocab_size = language::Tokenizer::load(root_ / "tokenizer.model").vocab_size();
    config.language.hidden_size = 24;
    config.language.num_hidden_layers = 2;
    config.language.num_attention_heads = 2;
    config.language.intermediate_size = 32;
    config.language.max_tokens = 48;
    config.fusion = {.embedding_size = 16,
                     .token_size = 16,
                     .levels = 1,
                     .image_attention_heads = 2,
                     .image_mlp_ratio = 2,
                     .cross_attention_heads = 2};
    config.memory.slots = 12;
    config.memory.code_size = 16;
    config.memory.episode = 4;
    config.losses.itc.queue.size = 21;  // no multiple of the batch
    config.losses.itc.queue.probe_pairs = 6;
    config.losses.itc.queue.probe_every = 4;
    config.schedule.epochs = 4;
    config.schedule.lora_warmup_epochs = 2;
    config.schedule.lora_warmup_steps = 3;
    config.schedule.learning_rate = 2e-3;
    config.schedule.lora_learning_rate = 2e-3;
    config.checkpoint.keep = 0;
    return config;
  }

  static constexpr std::int64_t kStepsAnEpoch = 6;

  std::filesystem::path run_folder(const std::string& name) const { return root_ / "runs" / name; }
  const std::filesystem::path& root() const { return root_; }

 private:
  std::filesystem::path root_;
};

}  // namespace tessera::train
