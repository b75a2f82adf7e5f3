#include "train/trainer.h"

#include <unistd.h>

#include <algorithm>
#include <sstream>

#include "core/error.h"
#include "core/files.h"
#include "model/adaptable_parts.h"
#include "model/parameter_table.h"
#include "train/checkpoint.h"
#include "train/run_log.h"
#include "train/validation.h"

namespace tessera::train {

namespace fs = std::filesystem;

namespace {

fs::path log_folder(const Config& config) { return fs::path(config.run.log_dir) / config.run.name; }

bool is_same_place(const fs::path& left, const fs::path& right) {
  std::error_code error;
  return fs::equivalent(left, right, error);
}

}  // namespace

Trainer::Trainer(const Config& config, const TrainerOptions& options)
    : config_(config),
      logger_(make_logger({}, options.log_to_terminal)),
      folder_(fs::path(config.run.output_dir) / config.run.name),
      lock_(folder_.root(), log_folder(config),
            options.resume.empty() ? std::chrono::seconds(0) : options.patience, logger_),
      compute_(choose_compute(config.run.device, config.run.precision, config.run.threads)) {
  for (const std::string& line : folder_.mend_links()) warn_before_log(line);
  if (options.resume.empty()) refuse_another_run();
  task_ = std::make_unique<ContrastiveTask>(config_, compute_, collectives_, logger_);
  std::optional<Resumption> from;
  if (!options.resume.empty()) from = find_resumption(options.resume);
  task_->build(from);
  prepare(from, options.stop_after);
  open_folder(from, options.log_to_terminal);
  if (from) {
    task_->keep_random_backbone(folder_.root() / "backbone");  // where another run's checkpoint goes on here
  } else {
    begin();
  }
}

Trainer::~Trainer() = default;

void Trainer::refuse_another_run() const {
  if (folder_.steps().empty()) return;
  throw ConfigError(
      fmt::format("{} already holds a run: continue it with --resume, give this one another name (--set "
                  "run.name=…), or move the folder away",
                  folder_.root().string()));
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
  from.data = task_->data();
  from.ranks = collectives_.size();
  for (const std::string& line : check_resumption(from)) warn_before_log(line);
  return from;
}

void Trainer::prepare(const std::optional<Resumption>& from, std::int64_t stop_after) {
  loop_ = std::make_unique<Loop>(config_, *task_, folder_, compute_, logger_, stop_after);
  if (!from) return;
  std::vector<std::string> notes;
  const Position position = position_now(*from, notes);
  for (const std::string& note : notes) warn_before_log(note);
  loop_->resume(from->checkpoint, position);
}

void Trainer::open_folder(const std::optional<Resumption>& from, bool log_to_terminal) {
  folder_.prepare();
  const std::int64_t step = loop_->position().step;
  std::optional<fs::path> set_aside;
  bool validated = false;
  if (from) {
    set_aside = folder_.set_aside_after(step);
    const bool is_own = is_same_place(from->checkpoint, folder_.checkpoint(step));
    if (is_own && folder_.pointed("latest") != step) folder_.point("latest", step);
    // Other pictures or another metric: it is owed again. Where larger batches put the place in the epoch
    // back to its beginning, no epoch has ended there.
    const bool is_put_back = from->saved.next_batch > 0 && loop_->position().next_batch == 0;
    validated = is_put_back || (is_own && validation_figure(from->checkpoint, config_.checkpoint.best_metric,
                                                            task_->validation_mark()));
    loop_->set_validated(validated);
  }
  log_files_ = {folder_.root() / "training.log", log_folder(config_) / "training.log"};
  const bool progress_line = log_to_terminal && isatty(STDERR_FILENO) == 1;
  const Logger to_files = make_logger(log_files_, /*to_terminal=*/false);
  for (const std::string& line : early_warnings_) to_files->warn("{}", line);
  add_files(logger_, log_files_);
  loop_->add_observer(
      std::make_unique<JsonLinesLog>(folder_.root() / "metrics.jsonl", step, validated, logger_));
  // The terminal shows steps on its progress line.
  loop_->add_observer(std::make_unique<TextLog>(progress_line ? to_files : logger_));
  if (progress_line) loop_->add_observer(std::make_unique<ProgressLine>());
  write_file_atomically(folder_.root() / "config.yaml", to_yaml(config_));

  describe_run();
  if (!from) return;
  if (set_aside) {
    logger_->warn(
        "the checkpoints after step {} are of a branch that ends here: they are in {}, with the metrics "
        "so far; delete that folder where nobody needs it",
        step, set_aside->string());
  }
  restore_best(*from);
  loop_->log_phase();
  logger_->info("resumed from {} at epoch {}, step {}", from->checkpoint.string(),
                std::min(loop_->position().epoch + 1, loop_->schedule().epochs()), step);
}

void Trainer::describe_run() const {
  logger_->info("run {} on {}: {} training images, {} validation images, {} steps an epoch, {} in all",
                config_.run.name, compute_.describe(), task_->training_images(), task_->validation_images(),
                task_->batches_per_epoch(), loop_->schedule().total_steps());
  if (const std::string note = task_->queue_note(); !note.empty()) logger_->warn("{}", note);
  const model::AdapterNotes notes = model::notes_on_adapters(config_, task_->model());
  for (const std::string& line : notes.unused) logger_->warn("{}", line);
  for (const std::string& line : notes.remarks) logger_->info("{}", line);
}

void Trainer::restore_best(const Resumption& from) {
  const std::string& metric = config_.checkpoint.best_metric;
  std::optional<std::int64_t> best;
  double highest = 0;
  for (const std::int64_t step : folder_.steps()) {
    const auto figure = validation_figure(folder_.checkpoint(step), metric, task_->validation_mark());
    if (!figure || (best && *figure <= highest)) continue;
    best = step;
    highest = *figure;
  }
  const std::optional<std::int64_t> pointed = folder_.pointed("best");
  const std::optional<double> known = loop_->position().best_metric;
  const bool comparable =
      from.then.checkpoint.best_metric == metric && from.then.data.validation == config_.data.validation;
  if (pointed && comparable && known && (!best || *known >= highest)) return;
  if (best) {
    loop_->set_best_metric(highest);
    if (pointed == best) return;
    folder_.point("best", *best);
    logger_->info("best points at step {} ({} {:.4f}){}", *best, metric, highest,
                  comparable && known && *known > highest
                      ? fmt::format(": the better one of this branch ({:.4f}) is there no more", *known)
                      : "");
    return;
  }
  loop_->set_best_metric(std::nullopt);
  if (known || pointed) {
    logger_->warn(
        "no checkpoint up to here has a {} on this validation data: best is chosen anew from here on",
        metric);
  }
}

void Trainer::begin() {
  task_->begin(folder_.root() / "backbone");
  loop_->begin();
  std::istringstream table(model::parameter_table(task_->model()));
  for (std::string line; std::getline(table, line);) logger_->info("{}", line);
}

RunOutcome Trainer::run() {
  const StopSignal stop;
  return run(stop);
}

RunOutcome Trainer::run(const StopSignal& stop) {
  try {
    return loop_->run(stop);
  } catch (const std::exception& error) {
    log_failure(error);
    throw;
  }
}

void Trainer::log_failure(const std::exception& error) const {
  // The terminal, if there is still one, gets it from whoever catches it.
  try {
    make_logger(log_files_, /*to_terminal=*/false)->error("the run ended: {}", error.what());
  } catch (const Error&) {
    // The log's folder is gone: that must not take the place of what ended the run.
  }
}

}  // namespace tessera::train
