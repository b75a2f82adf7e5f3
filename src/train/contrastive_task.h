#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"
#include "core/collectives.h"
#include "core/device.h"
#include "core/logging.h"
#include "data/loader.h"
#include "data/source.h"
#include "language/tokenizer.h"
#include "model/build.h"
#include "train/resume.h"
#include "train/task.h"

namespace tessera::model {
class Stage1Model;
}

namespace tessera::train {

class TrainingStep;

/// Training of a Stage1Model on pictures with captions: the objectives of its TrainingStep, validated by
/// retrieval.
class ContrastiveTask : public Task {
 public:
  /// Loads the tokenizer and opens the data. @throws Error / ConfigError
  ContrastiveTask(const Config& config, const Compute& compute, Collectives& collectives, Logger logger);
  ~ContrastiveTask() override;

  /// Builds the model, with what a checkpoint to go on from says of it. @throws Error / ConfigError
  void build(const std::optional<Resumption>& from);
  /// A new run: writes a random backbone to `backbone` (checkpoints name it), and takes over the weights of
  /// init_from.
  void begin(const std::filesystem::path& backbone);
  /// Writes a random backbone there, where it is nowhere else.
  void keep_random_backbone(const std::filesystem::path& backbone);

  model::Stage1Model& model() { return *built_.model; }
  std::int64_t training_images() const { return training_data_->size(); }
  std::int64_t validation_images() const { return validation_data_ ? validation_data_->size() : 0; }
  /// A warning where the queue is large for the data; empty where it is not.
  std::string queue_note() const;

  DataMark data() const override;
  std::int64_t batches_per_epoch() const override { return loader_->batches_per_epoch(); }
  bool begin_epoch(const EpochStart& start) override;
  bool next_batch() override;
  const BatchInfo& batch() const override { return info_; }
  double seconds_waited() const override { return loader_->seconds_waited(); }

  StepOutput compute(std::int64_t step) override;
  void after_update(std::int64_t step) override;
  nlohmann::json host_metrics() override;
  std::vector<std::string> loss_names() const override;

  bool has_lora() const override;
  void set_phase(Phase phase) override;
  void set_training(bool training) override;
  std::int64_t trainable_parameters() const override;
  std::vector<ParameterGroup> parameter_groups() const override;

  bool can_validate(std::int64_t epochs_begun) const override;
  nlohmann::json validate(const std::function<void()>& between) override;
  const std::string& validation_mark() const override { return validation_mark_; }

  void save(const std::filesystem::path& folder) const override;
  void load(const std::filesystem::path& folder) override;
  void save_state(Archive& archive) const override;
  void load_state(const Archive& archive) override;
  void export_to(const std::filesystem::path& folder) const override;

 private:
  void tell_when_losses_begin(const EpochStart& start) const;
  /// Validation is retrieval by embeddings, which tell nothing before the first epoch that trains them.
  std::int64_t first_validated_epoch() const;

  Config config_;
  Compute compute_;
  Collectives& collectives_;
  Logger logger_;
  language::Tokenizer tokenizer_;
  std::shared_ptr<const data::Source> training_data_;
  std::shared_ptr<const data::Source> validation_data_;
  std::string training_mark_;    ///< keys_hash of the training data
  std::string validation_mark_;  ///< of the validation data; empty without
  std::unique_ptr<data::TrainLoader> loader_;
  model::BuiltModel built_;
  std::unique_ptr<TrainingStep> training_step_;
  std::optional<data::Batch> batch_;
  BatchInfo info_;  ///< of batch_
  bool told_of_cut_captions_ = false;
};

}  // namespace tessera::train
