#include "train/trainer.h"

#include <ATen/Context.h>
#include <torch/utils.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <sstream>

#include "core/error.h"
#include "core/files.h"
#include "eval/encode.h"
#include "eval/retrieval.h"
#include "model/parameter_table.h"
#include "model/weights.h"
#include "train/parameter_groups.h"
#include "train/run_log.h"
#include "train/training_images.h"
#include "vision/dinov2_weights.h"

namespace tessera::train {

namespace fs = std::filesystem;

std::string phase_line(Phase phase, std::int64_t trainable_parameters) {
  if (phase == Phase::kOnly) return {};
  return fmt::format("Phase {}: LoRA adapters {} | Trainable params: {}", static_cast<int>(phase),
                     phase == Phase::kLoraFrozen ? "FROZEN" : "UNFROZEN",
                     model::with_thousands(trainable_parameters));
}

namespace {

language::Tokenizer load_tokenizer(const Config& config) {
  if (config.language.tokenizer.empty())
    throw ConfigError("language.tokenizer: no tokenizer is named (tessera train-tokenizer makes one)");
  return language::Tokenizer::load(config.language.tokenizer);
}

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

}  // namespace

/// Wall-clock figures between two logged steps.
struct Trainer::RateClock {
  using Clock = std::chrono::steady_clock;

  Clock::time_point since = Clock::now();
  double waited_before = 0;
  std::int64_t images = 0;
  std::int64_t steps = 0;
  double seconds_per_step = 0;  ///< smoothed over the logged intervals
};

Trainer::Trainer(const Config& config, const TrainerOptions& options)
    : config_(config),
      stop_after_(options.stop_after),
      compute_(choose_compute(config.run)),
      folder_(fs::path(config.run.output_dir) / config.run.name),
      tokenizer_(load_tokenizer(config)),
      metrics_(compute_.device),
      clock_(std::make_unique<RateClock>()) {
  // Everything that can be wrong in the input is opened before the run's folder is touched; until then what
  // there is to say goes to the terminal alone.
  logger_ = make_logger({}, options.log_to_terminal);
  open_data();
  std::filesystem::path resume_from;
  if (!options.resume.empty()) resume_from = folder_.resolve_resume(options.resume);
  build(resume_from);
  open_run(resume_from, options.log_to_terminal);
}

Trainer::~Trainer() = default;

void Trainer::open_data() {
  if (config_.data.train.empty()) throw ConfigError("data.train: no training data is named");
  training_data_ = data::WebDataset::open(config_.data.train, logger_);
  if (!config_.data.validation.empty()) {
    validation_data_ = data::WebDataset::open(config_.data.validation, logger_);
  }
}

void Trainer::build(const fs::path& resume_from) {
  Config config = config_;
  const bool backbone_is_frozen = config_.vision.trainable != TrainableChoice::kFull;
  // A checkpoint's other weights are worth something on its own backbone alone: a run that continues one, or
  // starts from one without naming a backbone, takes that backbone, whatever the seed or the configuration
  // says by now.
  const fs::path backbone_from = !resume_from.empty()
                                     ? resume_from
                                     : fs::path(config_.vision.weights == "random" ? config_.init_from : "");
  model::BackboneSource expected;
  if (backbone_is_frozen && !backbone_from.empty()) {
    expected = model::backbone_of_checkpoint(backbone_from);
    if (!expected.path.empty()) config.vision.weights = expected.path.string();
  }
  if (!resume_from.empty()) {
    config.language.weights = (resume_from / "language_model").string();
    if (!config.lora.adapter.empty()) config.lora.adapter = (resume_from / "adapter").string();
  }
  built_ = model::build_model(config, tokenizer_.vocab_size());
  if (!expected.path.empty()) model::check_backbone(backbone_from, expected, built_.backbone.hash);
}

void Trainer::warn_of_changed_keys(const fs::path& resume_from) const {
  const auto lines_of = [](const std::string& text) {
    std::vector<std::string> lines;
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
    return lines;
  };
  const std::vector<std::string> now = lines_of(to_yaml(config_));
  const std::vector<std::string> then = lines_of(to_yaml(load_config(resume_from / "config.yaml")));
  for (std::size_t i = 0; i < std::min(now.size(), then.size()); ++i) {
    if (now[i] != then[i])
      logger_->warn("the configuration has changed since: '{}', was '{}'", now[i], then[i]);
  }
}

void Trainer::open_run(const fs::path& resume_from, bool log_to_terminal) {
  if (resume_from.empty() && !folder_.steps().empty()) {
    throw ConfigError(
        fmt::format("{} already holds a run: continue it with --resume, give this one another name (--set "
                    "run.name=…), or move "
                    "the folder away",
                    folder_.root().string()));
  }
  if (!resume_from.empty()) position_ = read_position(resume_from);

  folder_.prepare();
  const fs::path log_folder = fs::path(config_.run.log_dir) / config_.run.name;
  const std::vector<fs::path> files = {folder_.root() / "training.log", log_folder / "training.log"};
  const bool progress_line = log_to_terminal && isatty(STDERR_FILENO) == 1;
  logger_ = make_logger(files, log_to_terminal);
  file_logger_ = make_logger(files, log_to_terminal && !progress_line);
  observers_.push_back(std::make_unique<JsonLinesLog>(folder_.root() / "metrics.jsonl", position_.step));
  observers_.push_back(std::make_unique<TextLog>(file_logger_));
  if (progress_line) observers_.push_back(std::make_unique<ProgressLine>());
  write_file_atomically(folder_.root() / "config.yaml", to_yaml(config_));

  at::manual_seed(static_cast<std::uint64_t>(config_.run.seed));
  built_.model->to(compute_.device);
  loader_ =
      std::make_unique<data::TrainLoader>(training_data_, loader_options(config_, collectives_), logger_);
  schedule_ = std::make_unique<PhaseSchedule>(config_.schedule, built_.model->has_lora(),
                                              loader_->batches_per_epoch());
  training_step_ = std::make_unique<TrainingStep>(built_.model, tokenizer_, config_, compute_, collectives_,
                                                  *training_data_);

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
  if (resume_from.empty()) {
    keep_random_backbone();
    if (!config_.init_from.empty()) {
      model::load_weights(config_.init_from, *built_.model);
      logger_->info("weights of {} taken over", config_.init_from);
    }
    start_phase(schedule_->phase_of(0), /*resuming=*/false);
  } else {
    warn_of_changed_keys(resume_from);
    start_phase(position_.phase, /*resuming=*/true);
    read_checkpoint(resume_from, *built_.model, *optimizer_, *training_step_, compute_.device);
    logger_->info("resumed from {} at epoch {}, step {}", resume_from.string(), position_.epoch + 1,
                  position_.step);
  }
}

void Trainer::keep_random_backbone() {
  // A random backbone is nowhere else: it is written once a run, and checkpoints name it.
  if (config_.vision.weights != "random" || config_.vision.trainable == TrainableChoice::kFull) return;
  // One that another run made is as it should be.
  if (built_.backbone.path.empty()) {
    standardise_encoder(*built_.model, *training_data_, config_, compute_.device);
  }
  const fs::path place = fs::absolute(folder_.root() / "backbone");
  model::save_backbone(place, *built_.model, config_);
  built_.backbone = {place, model::backbone_hash(place)};
}

void Trainer::start_phase(Phase phase, bool resuming) {
  const bool switching = optimizer_ != nullptr;
  position_.phase = phase;
  built_.model->set_lora_trainable(phase == Phase::kLoraTrains);
  auto optimizer =
      std::make_unique<AdamW>(parameter_groups(*built_.model, config_.schedule, config_.optimizer),
                              AdamWOptions{config_.optimizer.beta1, config_.optimizer.beta2,
                                           config_.optimizer.eps, config_.optimizer.clip_grad_norm});
  if (const std::string line = phase_line(phase, built_.model->trainable_parameters()); !line.empty()) {
    logger_->info("{}", line);
  }
  if (switching) {
    if (config_.schedule.rebuild == RebuildChoice::kCarry) {
      const std::size_t carried = optimizer->carry_from(*optimizer_);
      logger_->info(
          "optimizer rebuilt (rebuild: carry): the moments of {} tensors carried over, LoRA warms up over {} "
          "steps",
          carried, config_.schedule.lora_warmup_steps);
    } else {
      logger_->info(
          "optimizer rebuilt (rebuild: reset): all moments and the learning-rate schedule start afresh");
    }
  }
  optimizer_ = std::move(optimizer);
  if (!switching && !resuming) {
    std::istringstream table(model::parameter_table(*built_.model));
    for (std::string line; std::getline(table, line);) logger_->info("{}", line);
  }
}

RunOutcome Trainer::run() {
  const StopSignal stop;
  bool interrupted = false;
  while (!interrupted && position_.epoch < schedule_->epochs() && position_.step < schedule_->total_steps()) {
    const Phase phase = schedule_->phase_of(position_.epoch);
    if (phase != position_.phase) {
      folder_.point("phase1", position_.step);
      start_phase(phase, /*resuming=*/false);
    }
    interrupted = run_epoch(stop);
  }
  observe_last_step();
  if (interrupted) {
    save();
    logger_->info("stopped {}: the state of step {} is saved; continue with --resume",
                  stop.received() != 0 ? fmt::format("by signal {}", stop.received()) : "as asked",
                  position_.step);
  } else {
    if (folder_.pointed("latest") != position_.step) save();
    export_backbone();
    logger_->info("run {} finished after {} steps", config_.run.name, position_.step);
  }
  for (const auto& observer : observers_) observer->on_end();
  return {position_.step, interrupted};
}

bool Trainer::run_epoch(const StopSignal& stop) {
  built_.model->set_training(true);
  loader_->start_epoch(position_.epoch, position_.next_batch);
  while (position_.step < schedule_->total_steps()) {
    const std::optional<data::Batch> batch = loader_->next();
    if (!batch) break;
    run_step(*batch);
    if (must_stop(stop)) return true;
    const bool epoch_ends = position_.next_batch == loader_->batches_per_epoch();
    if (config_.checkpoint.every_steps > 0 && position_.step % config_.checkpoint.every_steps == 0 &&
        !epoch_ends) {
      // A step that was not finite is in the queue by now: no checkpoint may keep it.
      observe_last_step();
      save();
    }
  }
  if (position_.next_batch == loader_->batches_per_epoch()) finish_epoch();
  return false;
}

bool Trainer::must_stop(const StopSignal& stop) const {
  return stop.received() != 0 || (stop_after_ > 0 && position_.step >= stop_after_);
}

std::vector<double> Trainer::learning_rates() const {
  std::vector<double> rates;
  for (const ParameterGroup& group : optimizer_->groups()) {
    const bool lora = group.name == model::part_name(model::Part::kLora);
    const double factor = lora ? schedule_->lora_factor(position_.step) : schedule_->factor(position_.step);
    rates.push_back(group.peak_learning_rate * factor);
  }
  return rates;
}

void Trainer::run_step(const data::Batch& batch) {
  const std::vector<double> learning_rates = this->learning_rates();
  optimizer_->zero_grad();
  StepOutput output = training_step_->compute(batch, position_.step);
  output.loss.backward();
  const at::Tensor gradient_norm = optimizer_->step(learning_rates, output.loss);
  training_step_->after_update(position_.step);

  position_.step += 1;
  position_.next_batch = batch.index + 1;
  const std::int64_t images = batch.pixels.size(0);
  clock_->images += images;
  clock_->steps += 1;

  StepRecord record;
  record.step = position_.step;
  record.keys = batch.keys;
  record.device = std::move(output.metrics);
  record.device.emplace_back("loss", output.loss);
  record.device.emplace_back("grad_norm", gradient_norm);
  const bool logged =
      position_.step % config_.run.log_every == 0 || position_.step == schedule_->total_steps();
  if (logged) {
    record.host = rates(images);
    record.host.update(training_step_->host_metrics());
    for (std::size_t g = 0; g < learning_rates.size(); ++g) {
      record.host["learning_rate_" + optimizer_->groups()[g].name] = learning_rates[g];
    }
  }
  if (const auto read = metrics_.push(std::move(record))) observe(*read);
}

nlohmann::json Trainer::rates(std::int64_t images) {
  const auto now = RateClock::Clock::now();
  const double seconds = std::max(1e-9, std::chrono::duration<double>(now - clock_->since).count());
  const double waited = loader_->seconds_waited() - clock_->waited_before;
  const double per_step = seconds / static_cast<double>(std::max<std::int64_t>(1, clock_->steps));
  clock_->seconds_per_step =
      clock_->seconds_per_step == 0 ? per_step : 0.8 * clock_->seconds_per_step + 0.2 * per_step;
  nlohmann::json json = {
      {"step", position_.step},
      {"total_steps", schedule_->total_steps()},
      {"epoch", position_.epoch + 1},
      {"epochs", schedule_->epochs()},
      {"phase", static_cast<int>(position_.phase)},
      {"batch_size", images},
      {"images_per_second", static_cast<double>(clock_->images) / seconds},
      {"data_wait_share", std::min(1.0, waited / seconds)},
      {"broken_samples", loader_->broken()},
      {"seconds_left",
       clock_->seconds_per_step * static_cast<double>(schedule_->total_steps() - position_.step)}};
  clock_->since = now;
  clock_->waited_before = loader_->seconds_waited();
  clock_->images = 0;
  clock_->steps = 0;
  return json;
}

void Trainer::stop_if_not_finite(const ReadRecord& record) const {
  for (const char* part :
       {"loss", "loss_itc", "loss_maxsim", "loss_itm", "loss_caption", "loss_memory", "grad_norm"}) {
    if (!record.values.contains(part)) continue;
    if (std::isfinite(record.values.at(part).get<double>())) continue;
    std::string keys;
    for (const std::string& key : record.keys) keys += (keys.empty() ? "" : ", ") + key;
    fail("step {}: {} is not finite ({}); the update was skipped and the run stops. The batch: {}",
         record.step, part, record.values.at(part).get<double>(), keys);
  }
}

void Trainer::observe(const ReadRecord& record) {
  stop_if_not_finite(record);
  if (!record.values.contains("step")) return;  // not a logged step
  for (const auto& observer : observers_) observer->on_step(record.values);
}

void Trainer::observe_last_step() {
  if (const auto last = metrics_.flush()) observe(*last);
}

void Trainer::finish_epoch() {
  observe_last_step();
  position_.epoch += 1;
  position_.next_batch = 0;
  const bool last_epoch =
      position_.epoch == schedule_->epochs() || position_.step >= schedule_->total_steps();
  const bool switches = schedule_->switches_at(position_.epoch);
  const auto due = [&](std::int64_t every) { return every > 0 && position_.epoch % every == 0; };
  const std::optional<double> best_before = position_.best_metric;
  if (validation_data_ &&
      (due(config_.eval.every_epochs) || (config_.eval.every_epochs > 0 && (last_epoch || switches)))) {
    validate();
  }
  const bool is_best = position_.best_metric != best_before;
  if (due(config_.checkpoint.every_epochs) || last_epoch || switches || is_best) {
    save();
    if (is_best) folder_.point("best", position_.step);
  }
  clock_->since = RateClock::Clock::now();
  clock_->images = clock_->steps = 0;
}

void Trainer::validate() {
  built_.model->set_training(false);
  data::EvalLoader loader(validation_data_, eval::eval_loader_options(config_), logger_);
  const eval::EncodedSet encoded =
      eval::encode_set(*built_.model, tokenizer_, loader, compute_, config_.language.max_tokens);
  nlohmann::json record =
      eval::to_json(eval::retrieval_scores(encoded.image, encoded.text, encoded.caption_image));
  built_.model->set_training(true);
  record["step"] = position_.step;
  record["epoch"] = position_.epoch;
  record["epochs"] = schedule_->epochs();
  for (const auto& observer : observers_) observer->on_validation(record);

  const std::string& metric = config_.checkpoint.best_metric;
  if (!record.contains(metric)) {
    throw ConfigError(fmt::format("checkpoint.best_metric: the validation has no figure '{}'", metric));
  }
  const double value = record.at(metric).get<double>();
  if (!position_.best_metric || value > *position_.best_metric) position_.best_metric = value;
}

void Trainer::save() {
  folder_.publish(position_.step, [&](const fs::path& folder) {
    write_checkpoint(folder, *built_.model, config_, tokenizer_, built_.backbone, *optimizer_,
                     *training_step_, position_, compute_.device);
  });
  folder_.point("latest", position_.step);
  folder_.prune(config_.checkpoint.keep);
}

void Trainer::export_backbone() const {
  if (config_.vision.trainable != TrainableChoice::kFull) return;
  const fs::path place = folder_.root() / "export" / "backbone";
  model::save_backbone(place, *built_.model, config_);
  logger_->info("backbone exported to {} (a Hugging Face DINOv2 folder)", place.string());
}

}  // namespace tessera::train
