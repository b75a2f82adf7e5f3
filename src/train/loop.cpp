#include "train/loop.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "config/config.h"
#include "core/error.h"
#include "model/parameter_table.h"
#include "model/stage1_model.h"
#include "train/checkpoint.h"
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

Loop::Loop(const Config& config, Task& task, const RunFolder& folder, const Compute& compute, Logger logger,
           std::int64_t stop_after)
    : config_(config),
      task_(task),
      folder_(folder),
      compute_(compute),
      logger_(std::move(logger)),
      stop_after_(stop_after),
      schedule_(config.schedule, task.has_lora(), task.batches_per_epoch()),
      metrics_(compute.device),
      checked_figures_(task.loss_names()) {
  checked_figures_.insert(checked_figures_.begin(), "loss");
  checked_figures_.emplace_back("grad_norm");
  position_.data = task.data();
}

void Loop::begin() {
  optimizer_ = make_optimizer(schedule_.phase_of(0));
  log_phase();
}

void Loop::resume(const fs::path& checkpoint, const Position& position) {
  position_ = position;
  optimizer_ = make_optimizer(position_.phase);
  read_checkpoint(checkpoint, task_, *optimizer_, compute_.device);
}

std::unique_ptr<AdamW> Loop::make_optimizer(Phase phase) {
  position_.phase = phase;
  task_.set_phase(phase);
  return std::make_unique<AdamW>(task_.parameter_groups(), config_.optimizer);
}

void Loop::log_phase() const {
  const std::string line = phase_line(position_.phase, task_.trainable_parameters());
  if (!line.empty()) logger_->info("{}", line);
}

void Loop::switch_phase(Phase phase) {
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

RunOutcome Loop::run(const StopSignal& stop) {
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
    if (!interrupted) task_.export_to(folder_.root() / "export");
  } catch (...) {
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

void Loop::train() {
  // A run that was stopped or killed between saving and validating still owes the latter.
  if (validation_due() && !validated_) {
    save_unless_saved();
    validate();
  }
  while (!finished()) {
    stop_if_asked();
    const Phase phase = schedule_.phase_of(position_.epoch);
    if (phase != position_.phase) switch_phase(phase);
    run_epoch();
  }
}

bool Loop::finished() const {
  // The last step of an epoch is done before the epoch is.
  const bool epoch_is_open = position_.next_batch == task_.batches_per_epoch();
  return position_.epoch >= schedule_.epochs() ||
         (position_.schedule_step >= schedule_.total_steps() && !epoch_is_open);
}

void Loop::run_epoch() {
  task_.set_training(true);
  begin_epoch();
  while (position_.schedule_step < schedule_.total_steps()) {
    if (!next_batch()) break;
    run_step();
    stop_if_asked();
    // At an epoch's or the run's end settle() sees to it.
    const bool ends = position_.next_batch == task_.batches_per_epoch() ||
                      position_.schedule_step == schedule_.total_steps();
    if (!ends && config_.checkpoint.every_steps > 0 && position_.step % config_.checkpoint.every_steps == 0) {
      // A step that was not finite is in the queue by now: no checkpoint may keep it.
      observe_last_step();
      save();
    }
  }
  observe_last_step();
  if (position_.next_batch == task_.batches_per_epoch()) {
    position_.epoch += 1;
    position_.next_batch = 0;
  }
  settle();
  clock_.restart();
}

void Loop::begin_epoch() {
  const std::int64_t batches = task_.batches_per_epoch();
  const EpochStart start{.epoch = position_.epoch,
                         .first_batch = position_.next_batch,
                         .epochs = schedule_.epochs(),
                         .last_epoch = (schedule_.total_steps() + batches - 1) / batches};
  if (task_.begin_epoch(start)) clock_.forget();
}

bool Loop::next_batch() {
  try {
    return task_.next_batch();
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

bool Loop::must_stop() const {
  return stop_->received() != 0 || (stop_after_ > 0 && position_.step >= stop_after_);
}

void Loop::stop_if_asked() const {
  if (must_stop()) throw Interrupted{};
}

std::vector<double> Loop::learning_rates() const {
  const std::int64_t step = position_.schedule_step;
  std::vector<double> rates;
  for (const ParameterGroup& group : optimizer_->groups()) {
    const bool lora = group.name == model::part_name(model::Part::kLora);
    const double factor = lora ? schedule_.lora_factor(step) : schedule_.factor(step);
    rates.push_back(group.peak_learning_rate * factor);
  }
  return rates;
}

void Loop::run_step() {
  const BatchInfo& batch = task_.batch();
  const std::vector<double> learning_rates = this->learning_rates();
  optimizer_->zero_grad();
  StepOutput output = task_.compute(position_.step);
  output.loss.backward();
  const at::Tensor gradient_norm = optimizer_->step(learning_rates, output.loss);
  task_.after_update(position_.step);

  position_.step += 1;
  position_.schedule_step += 1;
  position_.next_batch = batch.index + 1;
  validated_ = false;
  clock_.count(batch.samples);

  StepRecord record;
  record.step = position_.step;
  record.keys = batch.keys;
  record.device = std::move(output.metrics);
  record.device.emplace_back("loss", output.loss);
  record.device.emplace_back("grad_norm", gradient_norm);
  const bool ends = position_.schedule_step == schedule_.total_steps();
  if (ends || position_.step % config_.run.log_every == 0) record.host = host_record(learning_rates);
  if (const auto read = metrics_.push(std::move(record))) observe(*read);
}

nlohmann::json Loop::host_record(const std::vector<double>& learning_rates) {
  const std::int64_t left = schedule_.total_steps() - position_.schedule_step;
  nlohmann::json record = clock_.read(task_.seconds_waited(), left);
  record["step"] = position_.step;
  record["total_steps"] = position_.step + left;
  record["epoch"] = position_.epoch + 1;
  record["epochs"] = schedule_.epochs();
  record["phase"] = static_cast<int>(position_.phase);
  record["trainable_parameters"] = task_.trainable_parameters();
  record["batch_size"] = task_.batch().samples;
  record.update(task_.host_metrics());
  for (std::size_t g = 0; g < learning_rates.size(); ++g) {
    record["learning_rate_" + optimizer_->groups()[g].name] = learning_rates[g];
  }
  return record;
}

void Loop::stop_if_not_finite(const ReadRecord& record) const {
  for (const std::string& part : checked_figures_) {
    if (!record.values.contains(part)) continue;
    if (std::isfinite(record.values.at(part).get<double>())) continue;
    std::string keys;
    for (const std::string& key : record.keys) keys += (keys.empty() ? "" : ", ") + key;
    fail("step {}: {} is not finite ({}); the update was skipped and the run stops. The batch: {}",
         record.step, part, record.values.at(part).get<double>(), keys);
  }
}

void Loop::observe(const ReadRecord& record) {
  stop_if_not_finite(record);
  if (!record.values.contains("step")) return;  // not a logged step
  for (const auto& observer : observers_) observer->on_step(record.values);
}

void Loop::observe_last_step() {
  if (const auto last = metrics_.flush()) observe(*last);
}

bool Loop::checkpoint_due() const {
  const CheckpointConfig& checkpoint = config_.checkpoint;
  const bool by_steps = checkpoint.every_steps > 0 && position_.step % checkpoint.every_steps == 0;
  const bool by_epochs = checkpoint.every_epochs > 0 && position_.epoch % checkpoint.every_epochs == 0;
  return by_steps || by_epochs || finished() || schedule_.switches_at(position_.epoch);
}

bool Loop::validation_due() const {
  const std::int64_t every = config_.eval.every_epochs;
  if (every == 0 || position_.step == 0 || !task_.can_validate(position_.epochs_begun())) return false;
  if (finished()) return true;
  return position_.next_batch == 0 && position_.epoch > 0 &&
         (position_.epoch % every == 0 || schedule_.switches_at(position_.epoch));
}

void Loop::settle() {
  const bool validates = validation_due();
  if (validates || checkpoint_due()) save();
  if (validates) validate();
}

void Loop::validate() {
  nlohmann::json record;
  try {
    // --stop-after is no reason: it would end each validation at its step, for ever.
    record = task_.validate([&] {
      if (stop_->received() != 0) throw Interrupted{};
    });
  } catch (const Error& error) {
    fail(
        "the validation at step {} failed: {}. The run's state is saved: mend that and continue with "
        "--resume, which validates first, or without a validation by --set eval.every_epochs=0",
        position_.step, error.what());
  }
  record["step"] = position_.step;
  record["epoch"] = position_.epochs_begun();
  record["epochs"] = schedule_.epochs();
  for (const auto& observer : observers_) observer->on_validation(record);

  write_validation(folder_.checkpoint(position_.step), record, task_.validation_mark());
  validated_ = true;
  const double value = record.at(config_.checkpoint.best_metric).get<double>();
  if (position_.best_metric && value <= *position_.best_metric) return;
  position_.best_metric = value;
  folder_.point("best", position_.step);
}

void Loop::save() {
  folder_.publish(position_.step, [&](const fs::path& folder) {
    write_checkpoint(folder, task_, *optimizer_, position_, compute_.device);
  });
  validated_ = false;
  folder_.point("latest", position_.step);
  folder_.prune(config_.checkpoint.keep);
}

void Loop::save_unless_saved() {
  if (folder_.pointed("latest") != position_.step) save();
}

}  // namespace tessera::train
