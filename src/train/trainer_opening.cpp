// What a Trainer does before its first step.

#include <ATen/Context.h>
#include <torch/utils.h>
#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "core/error.h"
#include "core/files.h"
#include "data/open_source.h"
#include "model/parameter_table.h"
#include "model/stage1_model.h"
#include "model/weights.h"
#include "train/run_log.h"
#include "train/trainer.h"
#include "train/training_images.h"
#include "train/validation.h"

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

fs::path log_folder(const Config& config) { return fs::path(config.run.log_dir) / config.run.name; }

data::LoaderOptions loader_options(const Config& config, const Collectives& collectives) {
  const DataConfig& data = config.data;
  return {.image_size = data.image_size,
          .augmentation = data.augmentation,
          .batch_size = data.batch_size,
          .workers = data.workers,
          .prefetch_batches = data.prefetch_batches,
          .drop_last = data.drop_last,
          .seed = static_cast<std::uint64_t>(config.run.seed),
          .rank = collectives.rank(),
          .world_size = collectives.size(),
          .max_broken_fraction = data.max_broken_fraction};
}

bool is_same_place(const fs::path& left, const fs::path& right) {
  std::error_code error;
  return fs::equivalent(left, right, error);
}

}  // namespace

Trainer::Trainer(const Config& config, const TrainerOptions& options)
    : config_(config),
      stop_after_(options.stop_after),
      logger_(make_logger({}, options.log_to_terminal)),
      folder_(fs::path(config.run.output_dir) / config.run.name),
      lock_(folder_.root(), log_folder(config),
            options.resume.empty() ? std::chrono::seconds(0) : options.patience, logger_),
      compute_(choose_compute(config.run)),
      tokenizer_(load_tokenizer(config)),
      metrics_(compute_.device) {
  for (const std::string& line : folder_.mend_links()) warn_before_log(line);
  if (options.resume.empty() && !folder_.steps().empty()) {
    throw ConfigError(
        fmt::format("{} already holds a run: continue it with --resume, give this one another name (--set "
                    "run.name=…), or move the folder away",
                    folder_.root().string()));
  }
  open_data();
  std::optional<Resumption> from;
  if (!options.resume.empty()) from = find_resumption(options.resume);
  build(from);
  prepare(from);
  open_folder(from, options.log_to_terminal);
  if (from) {
    keep_random_backbone();  // where another run's checkpoint goes on here
  } else {
    begin();
  }
}

Trainer::~Trainer() = default;

void Trainer::open_data() {
  if (config_.data.train.empty()) throw ConfigError("data.train: no training data is named");
  training_data_ = data::open_source(config_.data.train, config_.data, logger_);
  position_.data = {training_data_->size(), keys_hash(*training_data_)};
  if (config_.data.validation.empty()) return;
  validation_data_ = data::open_source(config_.data.validation, config_.data, logger_);
  validation_mark_ = keys_hash(*validation_data_);
}

void Trainer::warn_before_log(const std::string& line) {
  logger_->warn("{}", line);
  early_warnings_.push_back(line);
}

std::optional<Resumption> Trainer::find_resumption(const std::string& resume) {
  Resumption from;
  from.checkpoint = folder_.resolve_resume(resume);
  from.then = load_config(from.checkpoint / "config.yaml");
  from.now = config_;
  from.saved = read_position(from.checkpoint);
  from.data = position_.data;
  from.ranks = collectives_.size();
  for (const std::string& line : check_resumption(from)) warn_before_log(line);
  return from;
}

void Trainer::build(const std::optional<Resumption>& from) {
  Config config = config_;
  const bool backbone_is_frozen = config_.vision.trainable != TrainableChoice::kFull;
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
    config.language.weights = (from->checkpoint / "language_model").string();
    if (!config.lora.adapter.empty()) config.lora.adapter = (from->checkpoint / "adapter").string();
  }
  built_ = model::build_model(config, tokenizer_.vocab_size());
  if (!expected.path.empty()) model::check_backbone(backbone_from, expected, built_.backbone.hash);
}

void Trainer::prepare(const std::optional<Resumption>& from) {
  at::manual_seed(static_cast<std::uint64_t>(config_.run.seed));
  built_.model->to(compute_.device);
  loader_ =
      std::make_unique<data::TrainLoader>(training_data_, loader_options(config_, collectives_), logger_);
  schedule_ = std::make_unique<PhaseSchedule>(config_.schedule, built_.model->has_lora(),
                                              loader_->batches_per_epoch());
  training_step_ = std::make_unique<TrainingStep>(built_.model, tokenizer_, config_, compute_, collectives_,
                                                  *training_data_);
  if (!from) return;
  std::vector<std::string> notes;
  position_ = position_now(*from, notes);
  for (const std::string& note : notes) warn_before_log(note);
  optimizer_ = make_optimizer(position_.phase);
  read_checkpoint(from->checkpoint, *built_.model, *optimizer_, *training_step_, compute_.device);
}

void Trainer::open_folder(const std::optional<Resumption>& from, bool log_to_terminal) {
  folder_.prepare();
  std::optional<fs::path> set_aside;
  if (from) {
    set_aside = folder_.set_aside_after(position_.step);
    const bool is_own = is_same_place(from->checkpoint, folder_.checkpoint(position_.step));
    if (is_own && folder_.pointed("latest") != position_.step) folder_.point("latest", position_.step);
    // Other pictures or another metric: it is owed again. Where larger batches put the place in the epoch
    // back to its beginning, no epoch has ended there.
    const bool is_put_back = from->saved.next_batch > 0 && position_.next_batch == 0;
    validated_ = is_put_back || (is_own && validation_figure(from->checkpoint, config_.checkpoint.best_metric,
                                                             validation_mark_));
  }
  log_files_ = {folder_.root() / "training.log", log_folder(config_) / "training.log"};
  const bool progress_line = log_to_terminal && isatty(STDERR_FILENO) == 1;
  const Logger to_files = make_logger(log_files_, /*to_terminal=*/false);
  for (const std::string& line : early_warnings_) to_files->warn("{}", line);
  add_files(logger_, log_files_);
  file_logger_ = progress_line ? to_files : logger_;
  observers_.push_back(
      std::make_unique<JsonLinesLog>(folder_.root() / "metrics.jsonl", position_.step, validated_, logger_));
  observers_.push_back(std::make_unique<TextLog>(file_logger_));
  if (progress_line) observers_.push_back(std::make_unique<ProgressLine>());
  write_file_atomically(folder_.root() / "config.yaml", to_yaml(config_));

  logger_->info("run {} on {}: {} training images, {} validation images, {} steps an epoch, {} in all",
                config_.run.name, compute_.describe(), training_data_->size(),
                validation_data_ ? validation_data_->size() : 0, loader_->batches_per_epoch(),
                schedule_->total_steps());
  if (const std::string note = training_step_->queue_note(training_data_->size()); !note.empty()) {
    logger_->warn("{}", note);
  }
  const model::AdapterNotes notes = model::notes_on_adapter(config_, *built_.model);
  for (const std::string& line : notes.unused) logger_->warn("{}", line);
  if (!notes.in_place_of_defaults.empty()) logger_->info("{}", notes.in_place_of_defaults);
  if (!from) return;
  if (set_aside) {
    logger_->warn(
        "the checkpoints after step {} are of a branch that ends here: they are in {}, with the metrics "
        "so far; delete that folder where nobody needs it",
        position_.step, set_aside->string());
  }
  restore_best(*from);
  log_phase();
  logger_->info("resumed from {} at epoch {}, step {}", from->checkpoint.string(),
                std::min(position_.epoch + 1, schedule_->epochs()), position_.step);
}

void Trainer::restore_best(const Resumption& from) {
  const std::string& metric = config_.checkpoint.best_metric;
  std::optional<std::int64_t> best;
  double highest = 0;
  for (const std::int64_t step : folder_.steps()) {
    const auto figure = validation_figure(folder_.checkpoint(step), metric, validation_mark_);
    if (!figure || (best && *figure <= highest)) continue;
    best = step;
    highest = *figure;
  }
  const std::optional<std::int64_t> pointed = folder_.pointed("best");
  const std::optional<double> known = position_.best_metric;
  const bool comparable =
      from.then.checkpoint.best_metric == metric && from.then.data.validation == config_.data.validation;
  if (pointed && comparable && known && (!best || *known >= highest)) return;
  if (best) {
    position_.best_metric = highest;
    if (pointed == best) return;
    folder_.point("best", *best);
    logger_->info("best points at step {} ({} {:.4f}){}", *best, metric, highest,
                  comparable && known && *known > highest
                      ? fmt::format(": the better one of this branch ({:.4f}) is there no more", *known)
                      : "");
    return;
  }
  position_.best_metric.reset();
  if (known || pointed) {
    logger_->warn(
        "no checkpoint up to here has a {} on this validation data: best is chosen anew from here on",
        metric);
  }
}

void Trainer::begin() {
  keep_random_backbone();
  if (!config_.init_from.empty()) {
    model::load_weights(config_.init_from, *built_.model);
    logger_->info("weights of {} taken over", config_.init_from);
  }
  optimizer_ = make_optimizer(schedule_->phase_of(0));
  log_phase();
  std::istringstream table(model::parameter_table(*built_.model));
  for (std::string line; std::getline(table, line);) logger_->info("{}", line);
}

void Trainer::keep_random_backbone() {
  // A random backbone is nowhere else: it is written once a run, and checkpoints name it.
  if (config_.vision.weights != "random" || config_.vision.trainable == TrainableChoice::kFull) return;
  const fs::path place = fs::absolute(folder_.root() / "backbone");
  if (is_same_place(built_.backbone.path, place)) return;
  // One that another run made is as it should be.
  if (built_.backbone.path.empty()) {
    standardise_encoder(*built_.model, *training_data_, config_, compute_.device);
  }
  model::save_backbone(place, *built_.model, config_);
  built_.backbone = {place, model::backbone_hash(place)};
}

}  // namespace tessera::train
