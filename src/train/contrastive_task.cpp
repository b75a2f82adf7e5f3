#include "train/contrastive_task.h"

#include <ATen/Context.h>
#include <fmt/ranges.h>
#include <torch/utils.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/open_source.h"
#include "losses/loss_abilities.h"
#include "model/adaptable_parts.h"
#include "model/stage1_model.h"
#include "model/weights.h"
#include "objectives/objectives.h"
#include "train/loss_starts.h"
#include "train/parameter_groups.h"
#include "train/training_images.h"
#include "train/training_step.h"
#include "train/validation.h"
#include "vision/encoder.h"

namespace tessera::train {

namespace fs = std::filesystem;

namespace {

language::Tokenizer load_tokenizer(const Config& config) {
  if (config.language.tokenizer.empty())
    throw ConfigError("language.tokenizer: no tokenizer is named (tessera train-tokenizer makes one)");
  if (!fs::exists(config.language.tokenizer)) {
    throw ConfigError(fmt::format("language.tokenizer: {}: no such file (tessera train-tokenizer makes one)",
                                  config.language.tokenizer));
  }
  return language::Tokenizer::load(config.language.tokenizer);
}

}  // namespace

ContrastiveTask::ContrastiveTask(const Config& config, const Compute& compute, Collectives& collectives,
                                 Logger logger)
    : config_(config),
      compute_(compute),
      collectives_(collectives),
      logger_(std::move(logger)),
      tokenizer_(load_tokenizer(config)) {
  if (config_.data.train.empty()) throw ConfigError("data.train: no training data is named");
  training_data_ = data::open_source(config_.data.train, config_.data, logger_);
  training_mark_ = keys_hash(*training_data_);
  if (config_.data.validation.empty()) return;
  validation_data_ = data::open_source(config_.data.validation, config_.data, logger_);
  validation_mark_ = keys_hash(*validation_data_);
}

ContrastiveTask::~ContrastiveTask() = default;

void ContrastiveTask::build(const std::optional<Resumption>& from) {
  Config config = config_;
  const bool backbone_is_frozen = config_.vision.trainable != lora::TrainableChoice::kFull;
  // A checkpoint's other weights are worth something on its own backbone alone: a run that continues one, or
  // starts from one without naming a backbone, takes that backbone, whatever the configuration says by now.
  // Named at another place it has been found to be the same.
  const bool names_another_place = from && from->now.vision.weights != from->then.vision.weights;
  fs::path backbone_from(config_.vision.weights == "random" ? config_.init_from : "");
  if (from) backbone_from = names_another_place ? fs::path() : from->checkpoint;
  model::BackboneSource expected;
  if (backbone_is_frozen && !backbone_from.empty()) {
    expected = model::backbone_of_checkpoint(backbone_from);
    if (!expected.path.empty()) config.vision.weights = expected.path.string();
  }
  if (from) {
    config.init_from = from->checkpoint.string();
    config.language.weights = (from->checkpoint / "language_model").string();
    for (const model::AdaptablePart& part : model::adaptable_parts()) {
      std::string& adapter = part.lora.of(config).adapter;
      if (!adapter.empty()) adapter = (from->checkpoint / part.folder).string();
    }
  }
  built_ = model::build_model(config, tokenizer_.vocab_size());
  if (!expected.path.empty()) model::check_backbone(backbone_from, expected, built_.backbone.hash);

  at::manual_seed(static_cast<std::uint64_t>(config_.run.seed));
  built_.model->to(compute_.device);
  const data::TrainLoaderShare share{static_cast<std::uint64_t>(config_.run.seed), collectives_.rank(),
                                     collectives_.size()};
  loader_ = std::make_unique<data::TrainLoader>(training_data_, config_.data, share, logger_);
  training_step_ = std::make_unique<TrainingStep>(built_.model, tokenizer_, config_, compute_, collectives_,
                                                  *training_data_);
}

void ContrastiveTask::begin(const fs::path& backbone) {
  keep_random_backbone(backbone);
  if (config_.init_from.empty()) return;
  model::load_weights(config_.init_from, *built_.model);
  logger_->info("weights of {} taken over", config_.init_from);
}

void ContrastiveTask::keep_random_backbone(const fs::path& backbone) {
  // A random backbone is nowhere else: it is written once a run, and checkpoints name it.
  if (config_.vision.weights != "random" || config_.vision.trainable == lora::TrainableChoice::kFull) return;
  const fs::path place = fs::absolute(backbone);
  std::error_code error;
  if (fs::equivalent(built_.backbone.path, place, error)) return;
  // One that another run made is as it should be.
  if (built_.backbone.path.empty()) {
    standardise_encoder(*built_.model, *training_data_, config_, compute_.device);
  }
  model::save_backbone(place, built_.model->vision(), config_);
  built_.backbone = {place, model::backbone_hash(place)};
}

DataMark ContrastiveTask::data() const { return {training_data_->size(), training_mark_}; }

bool ContrastiveTask::begin_epoch(const EpochStart& start) {
  training_step_->begin_epoch(start.epoch);
  loader_->start_epoch(start.epoch, start.first_batch);
  if (start.first_batch > 0) return false;
  if (start.epoch == 0) {
    tell_when_losses_begin(start);
    return false;
  }
  const std::vector<std::string> joining = losses_from_epoch(config_.losses, start.epoch);
  if (joining.empty()) return false;
  logger_->info("epoch {}/{}: {} {} the losses that are trained", start.epoch + 1, start.epochs,
                fmt::join(joining, ", "), joining.size() == 1 ? "joins" : "join");
  return true;
}

void ContrastiveTask::tell_when_losses_begin(const EpochStart& start) const {
  if (const std::string plan = loss_plan(config_.losses); !plan.empty()) {
    logger_->info("losses begin: {}{}", plan,
                  first_validated_epoch() == 1 ? "" : " (no validation before embeddings are trained)");
  }
  std::vector<std::string> untrained;
  for (std::int64_t epoch = start.last_epoch; epoch < start.epochs; ++epoch) {
    const std::vector<std::string> names = losses_from_epoch(config_.losses, epoch);
    untrained.insert(untrained.end(), names.begin(), names.end());
  }
  if (untrained.empty()) return;
  logger_->warn(
      "schedule.max_steps: the run ends in epoch {}, before {} would begin (losses.NAME.from_epoch): what "
      "only that trains stays as it is now",
      start.last_epoch, fmt::join(untrained, ", "));
}

bool ContrastiveTask::next_batch() {
  batch_ = loader_->next();
  if (!batch_) return false;
  info_ = {.index = batch_->index, .samples = batch_->pixels.size(0), .keys = batch_->keys};
  return true;
}

StepOutput ContrastiveTask::compute(std::int64_t step) { return training_step_->compute(*batch_, step); }

void ContrastiveTask::after_update(std::int64_t step) { training_step_->after_update(step); }

std::string ContrastiveTask::queue_note() const { return training_step_->queue_note(training_images()); }

nlohmann::json ContrastiveTask::host_metrics() {
  nlohmann::json metrics = training_step_->host_metrics();
  metrics["broken_samples"] = loader_->broken();
  const auto cut = metrics.at("captions_cut").get<std::int64_t>();
  if (!told_of_cut_captions_ && cut > 0) {
    told_of_cut_captions_ = true;
    logger_->warn(
        "{} of the captions so far are longer than language.max_tokens ({}), and what is beyond is left out; "
        "captions_cut in metrics.jsonl goes on counting",
        cut, config_.language.max_tokens);
  }
  return metrics;
}

std::vector<std::string> ContrastiveTask::loss_names() const {
  std::vector<std::string> names;
  for (const objectives::ObjectiveEntry& entry : objectives::all_objectives())
    names.push_back(fmt::format("loss_{}", entry.name));
  return names;
}

bool ContrastiveTask::has_lora() const { return built_.model->has_lora(); }

void ContrastiveTask::set_training(bool training) { built_.model->set_training(training); }

std::int64_t ContrastiveTask::trainable_parameters() const { return built_.model->trainable_parameters(); }

void ContrastiveTask::set_phase(Phase phase) {
  built_.model->set_lora_trainable(phase == Phase::kLoraTrains);
}

std::vector<ParameterGroup> ContrastiveTask::parameter_groups() const {
  return train::parameter_groups(*built_.model, config_.schedule, config_.optimizer);
}

std::int64_t ContrastiveTask::first_validated_epoch() const {
  return first_epoch(config_.losses, losses::Ability::kEmbeddings).value_or(1);
}

bool ContrastiveTask::can_validate(std::int64_t epochs_begun) const {
  const std::int64_t first = first_validated_epoch();
  return validation_data_ != nullptr && (first == 1 || epochs_begun >= first);
}

nlohmann::json ContrastiveTask::validate(const std::function<void()>& between) {
  return measure_validation(*built_.model, tokenizer_, validation_data_, config_, compute_, logger_, between);
}

void ContrastiveTask::save(const fs::path& folder) const {
  model::save_weights(folder, *built_.model, config_, tokenizer_, built_.backbone);
}

void ContrastiveTask::load(const fs::path& folder) { model::load_weights(folder, *built_.model); }

void ContrastiveTask::save_state(Archive& archive) const { training_step_->save(archive); }

void ContrastiveTask::load_state(const Archive& archive) { training_step_->load(archive); }

void ContrastiveTask::export_to(const fs::path& folder) const {
  if (config_.vision.trainable != lora::TrainableChoice::kFull) return;
  const fs::path place = folder / "backbone";
  const vision::VisionEncoder& backbone = built_.model->vision();
  model::save_backbone(place, backbone, config_);
  logger_->info("backbone exported to {} (a Hugging Face {} folder)", place.string(),
                backbone.hugging_face_class().name);
}

}  // namespace tessera::train
