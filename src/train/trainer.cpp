#include "train/trainer.h"

#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "model/parameter_table.h"
#include "model/stage1_model.h"
#include "model/weights.h"
#include "train/loss_starts.h"
#include "train/parameter_groups.h"
#include "train/validation.h"

namespace tessera::train {

namespace fs = std::filesystem;

std::string phase_line(Phase phase, std::int64_t trainable_parameters) {
  if (phase == Phase::kOnly) return {};
  return fmt::format("Phase {}: LoRA adapters {} | Trainable params: {}", static_cast<int>(phase),
                     phase == Phase::kLoraFrozen ? "FROZEN" : "UNFROZEN",
                     model::with_thousands(trainable_parameters));
}

namespace {

/// Leaves the loop, from wherever a request to stop is seen. No error.
struct Interrupted {};

}  // namespace

std::unique_ptr<AdamW> Trainer::make_optimizer(Phase phase) {
  position_.phase = phase;
  built_.model->set_lora_trainable(phase == Phase::kLoraTrains);
  return std::make_unique<AdamW>(parameter_groups(*built_.model, config_.schedule, config_.optimizer),
                                 AdamWOptions{config_.optimizer.beta1, config_.optimizer.beta2,
                                              config_.optimizer.eps, config_.optimizer.clip_grad_norm});
}

void Trainer::log_phase() const {
  const std::string line = phase_line(position_.phase, built_.model->trainable_parameters());
  if (!line.empty()) logger_->info("{}", line);
}

void Trainer::switch_phase(Phase phase) {
  save_unless_saved();
  folder_.point("phase1", position_.step);
  auto optimizer = make_optimizer(phase);
  log_phase();
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
  optimizer_ = std::move(optimizer);
}

RunOutcome Trainer::run() {
  const StopSignal stop;
  return run(stop);
}

RunOutcome Trainer::run(const StopSignal& stop) {
  stop_ = &stop;
  bool interrupted = false;
  try {
    try {
      train();
    } catch (const Interrupted&) {
      interrupted = true;
      observe_last_step();
    }
    save_unless_saved();
    if (!interrupted) export_backbone();
  } catch (const std::exception& error) {
    log_failure(error);
    stop_ = nullptr;
    throw;
  }
  stop_ = nullptr;
  if (interrupted) {
    logger_->info("stopped {}: the state of step {} is saved; continue with --resume",
                  stop.received() != 0 ? fmt::format("by signal {}", stop.received()) : "as asked",
                  position_.step);
  } else {
    logger_->info("run {} finished after {} steps", config_.run.name, position_.step);
  }
  for (const auto& observer : observers_) observer->on_end();
  return {position_.step, interrupted};
}

void Trainer::train() {
  // A run that was stopped or killed between saving and validating still owes the latter.
  if (validation_due() && !validated_) {
    save_unless_saved();
    validate();
  }
  while (!finished()) {
    stop_if_asked();
    const Phase phase = schedule_->phase_of(position_.epoch);
    if (phase != position_.phase) switch_phase(phase);
    run_epoch();
  }
}

bool Trainer::finished() const {
  // The last step of an epoch is done before the epoch is.
  const bool epoch_is_open = position_.next_batch == loader_->batches_per_epoch();
  return position_.epoch >= schedule_->epochs() ||
         (position_.schedule_step >= schedule_->total_steps() && !epoch_is_open);
}

void Trainer::run_epoch() {
  built_.model->set_training(true);
  begin_losses();
  loader_->start_epoch(position_.epoch, position_.next_batch);
  while (position_.schedule_step < schedule_->total_steps()) {
    const std::optional<data::Batch> batch = next_batch();
    if (!batch) break;
    run_step(*batch);
    stop_if_asked();
    // At an epoch's or the run's end settle() sees to it.
    const bool ends = position_.next_batch == loader_->batches_per_epoch() ||
                      position_.schedule_step == schedule_->total_steps();
    if (!ends && config_.checkpoint.every_steps > 0 && position_.step % config_.checkpoint.every_steps == 0) {
      // A step that was not finite is in the queue by now: no checkpoint may keep it.
      observe_last_step();
      save();
    }
  }
  observe_last_step();
  if (position_.next_batch == loader_->batches_per_epoch()) {
    position_.epoch += 1;
    position_.next_batch = 0;
  }
  settle();
  clock_.restart();
}

void Trainer::begin_losses() {
  training_step_->begin_epoch(position_.epoch);
  if (position_.next_batch > 0) return;
  if (position_.epoch == 0) {
    if (const std::string plan = loss_plan(config_.losses); !plan.empty())
      logger_->info("losses begin: {}{}", plan, validates_itc() ? "" : " (no validation before ITC)");
    warn_of_losses_that_never_begin();
    return;
  }
  const std::vector<std::string> joining = losses_from_epoch(config_.losses, position_.epoch);
  if (joining.empty()) return;
  logger_->info("epoch {}/{}: {} {} the losses that are trained", position_.epoch + 1, schedule_->epochs(),
                fmt::join(joining, ", "), joining.size() == 1 ? "joins" : "join");
  clock_.forget();
}

std::optional<data::Batch> Trainer::next_batch() {
  try {
    return loader_->next();
  } catch (const std::exception&) {
    // What has been trained so far is sound, whatever became of the data.
    observe_last_step();
    if (position_.step > 0) {
      save_unless_saved();
      logger_->warn(
          "no more data: the state of step {} is saved; once that is mended, continue with --resume",
          position_.step);
    }
    throw;
  }
}

bool Trainer::must_stop() const {
  return stop_->received() != 0 || (stop_after_ > 0 && position_.step >= stop_after_);
}

void Trainer::stop_if_asked() const {
  if (must_stop()) throw Interrupted{};
}

std::vector<double> Trainer::learning_rates() const {
  const std::int64_t step = position_.schedule_step;
  std::vector<double> rates;
  for (const ParameterGroup& group : optimizer_->groups()) {
    const bool lora = group.name == model::part_name(model::Part::kLora);
    const double factor = lora ? schedule_->lora_factor(step) : schedule_->factor(step);
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
  position_.schedule_step += 1;
  position_.next_batch = batch.index + 1;
  validated_ = false;
  const std::int64_t images = batch.pixels.size(0);
  clock_.count(images);

  StepRecord record;
  record.step = position_.step;
  record.keys = batch.keys;
  record.device = std::move(output.metrics);
  record.device.emplace_back("loss", output.loss);
  record.device.emplace_back("grad_norm", gradient_norm);
  const bool ends = position_.schedule_step == schedule_->total_steps();
  if (ends || position_.step % config_.run.log_every == 0) record.host = host_record(images, learning_rates);
  if (const auto read = metrics_.push(std::move(record))) observe(*read);
}

nlohmann::json Trainer::host_record(std::int64_t images, const std::vector<double>& learning_rates) {
  const std::int64_t left = schedule_->total_steps() - position_.schedule_step;
  nlohmann::json record = clock_.read(loader_->seconds_waited(), left);
  record["step"] = position_.step;
  record["total_steps"] = position_.step + left;
  record["epoch"] = position_.epoch + 1;
  record["epochs"] = schedule_->epochs();
  record["phase"] = static_cast<int>(position_.phase);
  record["batch_size"] = images;
  record["broken_samples"] = loader_->broken();
  record.update(training_step_->host_metrics());
  if (!told_of_cut_captions_ && record.at("captions_cut").get<std::int64_t>() > 0) {
    told_of_cut_captions_ = true;
    logger_->warn(
        "{} of the captions so far are longer than language.max_tokens ({}), and what is beyond is left out; "
        "captions_cut in metrics.jsonl goes on counting",
        record.at("captions_cut").get<std::int64_t>(), config_.language.max_tokens);
  }
  for (std::size_t g = 0; g < learning_rates.size(); ++g) {
    record["learning_rate_" + optimizer_->groups()[g].name] = learning_rates[g];
  }
  return record;
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

bool Trainer::checkpoint_due() const {
  const CheckpointConfig& checkpoint = config_.checkpoint;
  const bool by_steps = checkpoint.every_steps > 0 && position_.step % checkpoint.every_steps == 0;
  const bool by_epochs = checkpoint.every_epochs > 0 && position_.epoch % checkpoint.every_epochs == 0;
  return by_steps || by_epochs || finished() || schedule_->switches_at(position_.epoch);
}

void Trainer::warn_of_losses_that_never_begin() const {
  const std::int64_t epochs =
      (schedule_->total_steps() + loader_->batches_per_epoch() - 1) / loader_->batches_per_epoch();
  std::vector<std::string> untrained;
  for (std::int64_t epoch = epochs; epoch < schedule_->epochs(); ++epoch) {
    const std::vector<std::string> names = losses_from_epoch(config_.losses, epoch);
    untrained.insert(untrained.end(), names.begin(), names.end());
  }
  if (untrained.empty()) return;
  logger_->warn(
      "schedule.max_steps: the run ends in epoch {}, before {} would begin (losses.NAME.from_epoch): what "
      "only "
      "that trains stays as it is now",
      epochs, fmt::join(untrained, ", "));
}

/// Validation is retrieval by ITC's vectors, which tell nothing before the first epoch that trains them.
bool Trainer::validates_itc() const {
  const ItcConfig& itc = config_.losses.itc;
  return itc.weight == 0 || itc.from_epoch == 1 || position_.epochs_begun() >= itc.from_epoch;
}

bool Trainer::validation_due() const {
  const std::int64_t every = config_.eval.every_epochs;
  if (!validation_data_ || every == 0 || position_.step == 0 || !validates_itc()) return false;
  if (finished()) return true;
  return position_.next_batch == 0 && position_.epoch > 0 &&
         (position_.epoch % every == 0 || schedule_->switches_at(position_.epoch));
}

void Trainer::settle() {
  const bool validates = validation_due();
  if (validates || checkpoint_due()) save();
  if (validates) validate();
}

void Trainer::validate() {
  nlohmann::json record;
  try {
    // --stop-after is no reason: it would end each validation at its step, for ever.
    record = measure_validation(*built_.model, tokenizer_, validation_data_, config_, compute_, logger_, [&] {
      if (stop_->received() != 0) throw Interrupted{};
    });
  } catch (const Error& error) {
    fail(
        "the validation at step {} failed: {}. The run's state is saved: mend that and continue with "
        "--resume, "
        "which validates first, or without a validation by --set eval.every_epochs=0",
        position_.step, error.what());
  }
  record["step"] = position_.step;
  record["epoch"] = position_.epochs_begun();
  record["epochs"] = schedule_->epochs();
  for (const auto& observer : observers_) observer->on_validation(record);

  write_validation(folder_.checkpoint(position_.step), record, validation_mark_);
  validated_ = true;
  const double value = record.at(config_.checkpoint.best_metric).get<double>();
  if (position_.best_metric && value <= *position_.best_metric) return;
  position_.best_metric = value;
  folder_.point("best", position_.step);
}

void Trainer::save() {
  folder_.publish(position_.step, [&](const fs::path& folder) {
    write_checkpoint(folder, *built_.model, config_, tokenizer_, built_.backbone, *optimizer_,
                     *training_step_, position_, compute_.device);
  });
  validated_ = false;
  folder_.point("latest", position_.step);
  folder_.prune(config_.checkpoint.keep);
}

void Trainer::save_unless_saved() {
  if (folder_.pointed("latest") != position_.step) save();
}

void Trainer::log_failure(const std::exception& error) const {
  // The terminal, if there is still one, gets it from whoever catches it.
  try {
    make_logger(log_files_, /*to_terminal=*/false)->error("the run ended: {}", error.what());
  } catch (const Error&) {
    // The log's folder is gone: that must not take the place of what ended the run.
  }
}

void Trainer::export_backbone() const {
  if (config_.vision.trainable != TrainableChoice::kFull) return;
  const fs::path place = folder_.root() / "export" / "backbone";
  model::save_backbone(place, *built_.model, config_);
  logger_->info("backbone exported to {} (a Hugging Face DINOv2 folder)", place.string());
}

}  // namespace tessera::train
