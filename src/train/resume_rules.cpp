#include <fmt/ranges.h>

#include <cmath>
#include <map>
#include <utility>

#include "config/config.h"
#include "config/config_table.h"
#include "core/error.h"
#include "core/files.h"
#include "core/safetensors.h"
#include "model/adaptable_parts.h"
#include "model/build.h"
#include "train/loss_starts.h"
#include "train/phase_schedule.h"
#include "train/resume.h"

namespace tessera::train {

namespace {

const std::vector<std::string> kScheduleShape = {
    "schedule.epochs",         "schedule.max_steps",      "schedule.lora_warmup_epochs",
    "schedule.rebuild",        "schedule.decay",          "schedule.lora_warmup_steps",
    "schedule.final_fraction", "schedule.warmup_fraction"};

/// "losses.NAME.FIELD" of every loss.
std::vector<std::string> keys_of_losses(const char* field) {
  std::vector<std::string> keys;
  const losses::LossesConfig losses;
  for_each_loss(losses, [&](const char* name, const auto&, losses::Ability) {
    keys.push_back(fmt::format("losses.{}.{}", name, field));
  });
  return keys;
}

std::vector<std::string> learned_keys() {
  std::vector<std::string> keys;
  Config config;
  const ConfigTable table = config_table(config);
  for (const ConfigKey& key : table.keys()) {
    if (key.is_learned) keys.push_back(key.path);
  }
  return keys;
}

const std::vector<std::string> kLossStarts = keys_of_losses("from_epoch");

/// "KEY: new, was old" of those of the keys that differ.
std::vector<std::string> changes(const Resumption& resumption, const std::vector<std::string>& keys) {
  const std::vector<ConfigDifference> found = differences(resumption.then, resumption.now);
  std::vector<std::string> lines;
  for (const std::string& key : keys) {
    for (const auto& [path, then, now] : found) {
      if (path == key) lines.push_back(fmt::format("{}: {}, was {}", path, now, then));
    }
  }
  return lines;
}

bool has_lora(const Config& config) { return config.vision.trainable == lora::TrainableChoice::kLora; }

std::string refuse_other_data(const Resumption& resumption) {
  const DataMark& then = resumption.saved.data;
  const DataMark& now = resumption.data;
  if (then.samples == 0) {
    // An old checkpoint: its counts have to agree among themselves.
    const Position& saved = resumption.saved;
    const std::int64_t batches = resumption.batches_then();
    if (saved.next_batch <= batches && saved.step == saved.epoch * batches + saved.next_batch) return {};
    return fmt::format(
        "data.train: {} samples make {} steps an epoch, with which step {} does not lie at batch {} of epoch "
        "{}",
        now.samples, batches, saved.step, saved.next_batch, saved.epoch + 1);
  }
  if (then.samples != now.samples) {
    return fmt::format(
        "data.train: {} samples, were {} (the order of an epoch, the place in it and the schedule are made "
        "for those)",
        now.samples, then.samples);
  }
  if (then.keys == now.keys) return {};
  return fmt::format(
      "data.train: as many samples as before ({}), but others or in another order (the place in an epoch "
      "would mean nothing)",
      now.samples);
}

std::string refuse_other_batches(const Resumption& resumption) {
  const std::vector<std::string> changed = changes(resumption, {"data.batch_size", "data.drop_last"});
  if (changed.empty() || !refuse_other_data(resumption).empty()) return {};
  const ScheduleConfig& schedule = resumption.then.schedule;
  if (schedule.max_steps > 0) {
    return fmt::format(
        "{} (schedule.max_steps counts steps: with steps of another size the schedule would bend)",
        fmt::join(changed, ", "));
  }
  if (!has_lora(resumption.then)) return {};
  std::vector<std::string> notes;
  const std::int64_t since =
      resumption.saved.schedule_step - PhaseSchedule(schedule, true, resumption.batches_then()).switch_step();
  // Counted in larger batches it may have begun but now.
  const std::int64_t since_now =
      position_now(resumption, notes).schedule_step -
      PhaseSchedule(resumption.now.schedule, true, resumption.batches_now()).switch_step();
  const std::int64_t steps = schedule.lora_warmup_steps;
  if (since <= 0 || (since >= steps && since_now >= steps)) return {};
  const double larger = std::max(
      1.0, static_cast<double>(resumption.batches_then()) / static_cast<double>(resumption.batches_now()));
  const std::int64_t needed =
      larger > 1 ? static_cast<std::int64_t>(std::ceil(larger * static_cast<double>(steps + 1))) : steps;
  const std::int64_t possible = resumption.saved.step + needed - since;
  const bool ends_before =
      needed - since >=
      PhaseSchedule(schedule, true, resumption.batches_then()).total_steps() - resumption.saved.schedule_step;
  return fmt::format(
      "{} (LoRA's own warm-up counts steps: {} of its {} are done, and it would be at {}: change it before, "
      "at checkpoints/phase1{})",
      fmt::join(changed, ", "), std::min(since, steps), steps, std::clamp<std::int64_t>(since_now, 0, steps),
      ends_before ? "; after it the run is over"
                  : fmt::format(", or after, with --stop-after {} until then", possible));
}

std::string refuse_bent_schedule(const Resumption& resumption) {
  const std::vector<std::string> changed = changes(resumption, kScheduleShape);
  if (changed.empty() || !refuse_other_data(resumption).empty()) return {};
  std::vector<std::string> notes;
  const Position position = position_now(resumption, notes);
  const std::int64_t done = position.schedule_step;
  const std::int64_t batches = resumption.batches_now();
  const PhaseSchedule then(resumption.then.schedule, has_lora(resumption.then), batches);
  const PhaseSchedule now(resumption.now.schedule, has_lora(resumption.now), batches);
  const std::string keys = fmt::format("{}", fmt::join(changed, ", "));
  if (now.total_steps() < done) {
    return fmt::format(
        "{} (the run would have ended at step {}, and is at step {}; --stop-after ends one early)", keys,
        now.total_steps(), done);
  }
  for (std::int64_t epoch = 0; epoch < position.epochs_begun(); ++epoch) {
    if (then.phase_of(epoch) == now.phase_of(epoch)) continue;
    return fmt::format("{} (epoch {} has been trained in phase {} and would have been in phase {})", keys,
                       epoch + 1, static_cast<int>(then.phase_of(epoch)),
                       static_cast<int>(now.phase_of(epoch)));
  }
  if (done == 0) return {};
  const std::pair<double, double> factors[] = {{then.factor(done - 1), now.factor(done - 1)},
                                               {has_lora(resumption.then) ? then.lora_factor(done - 1) : 0.0,
                                                has_lora(resumption.now) ? now.lora_factor(done - 1) : 0.0}};
  for (const auto& [was, would_be] : factors) {
    if (std::abs(was - would_be) <= 1e-9) continue;
    return fmt::format(
        "{} (the last update had {:.4g} of the peak learning rate and would have had {:.4g}: the schedule "
        "would jump)",
        keys, was, would_be);
  }
  return {};
}

std::string refuse_switched_losses(const Resumption& resumption) {
  std::map<std::string, double> before;
  for_each_loss(resumption.then.losses,
                [&](const char* name, const auto& loss, losses::Ability) { before[name] = loss.weight; });
  std::string refusal;
  for_each_loss(resumption.now.losses, [&](const char* name, const auto& loss, losses::Ability) {
    if (!refusal.empty() || (before.at(name) == 0) == (loss.weight == 0)) return;
    refusal = fmt::format(
        "losses.{}.weight: {}, was {} (what only this loss trains would have no state in the checkpoint, or "
        "the other way round)",
        name, loss.weight, before.at(name));
  });
  return refusal;
}

std::string refuse_moved_starts(const Resumption& resumption) {
  const std::vector<std::string> changed = changes(resumption, kLossStarts);
  const Position& position = resumption.saved;
  for (std::int64_t epoch = 0; epoch < position.epochs_begun() && !changed.empty(); ++epoch) {
    const std::vector<std::string> then = losses_from_epoch(resumption.then.losses, epoch);
    const std::vector<std::string> now = losses_from_epoch(resumption.now.losses, epoch);
    if (then == now) continue;
    return fmt::format("{} (in epoch {}, which has been trained, {} began, and {} would have)",
                       fmt::join(changed, ", "), epoch + 1,
                       then.empty() ? "none" : fmt::format("{}", fmt::join(then, ", ")),
                       now.empty() ? "none" : fmt::format("{}", fmt::join(now, ", ")));
  }
  return {};
}

std::string refuse_other_backbone(const Resumption& resumption) {
  const vision::VisionConfig& then = resumption.then.vision;
  const vision::VisionConfig& now = resumption.now.vision;
  // One that trains is in the checkpoint itself.
  if (then.weights == now.weights || then.trainable == lora::TrainableChoice::kFull) return {};
  const StringMap metadata = SafetensorsFile(resumption.checkpoint / "model.safetensors").metadata();
  const auto hash = metadata.find("backbone_hash");
  if (hash == metadata.end()) return {};
  if (now.weights != "random" && model::backbone_hash(now.weights) == hash->second) return {};
  return fmt::format(
      "vision.weights: {}, was {} (other weights than the frozen ones that everything was trained on)",
      now.weights, then.weights);
}

std::string refuse_other_tokenizer(const Resumption& resumption) {
  const std::filesystem::path copy = resumption.checkpoint / "tokenizer.model";
  const std::string& now = resumption.now.language.tokenizer;
  if (!std::filesystem::exists(copy) || file_hash(copy) == file_hash(now)) return {};
  return fmt::format("language.tokenizer: {} is another one than {}, with which the run was trained", now,
                     copy.string());
}

/// "lora.KEY" of every part that can have adapters.
std::vector<std::string> keys_of_adapters(const char* name) {
  std::vector<std::string> keys;
  for (const model::AdaptablePart& part : model::adaptable_parts())
    keys.push_back(fmt::format("{}.{}", part.section, name));
  return keys;
}

std::string refuse_adapter_or_none(const Resumption& resumption) {
  for (const model::AdaptablePart& part : model::adaptable_parts()) {
    const std::string& then = part.lora.of(resumption.then).adapter;
    const std::string& now = part.lora.of(resumption.now).adapter;
    if (then.empty() == now.empty()) continue;
    return fmt::format("{0}.adapter: '{1}', was '{2}' (without one, the other keys of {0} say what it is)",
                       part.section, now, then);
  }
  return {};
}

std::vector<std::string> joined(std::vector<std::string> keys, const std::vector<std::string>& others) {
  keys.insert(keys.end(), others.begin(), others.end());
  return keys;
}

}  // namespace

const std::vector<ResumeRule>& resume_rules() {
  using enum OnResume;
  static const std::vector<ResumeRule> rules = {
      {{"data.train", "data.table"},
       kSometimes,
       "other places or columns, but the same samples in the same order: the place in an epoch and the "
       "schedule count them",
       refuse_other_data},
      {{"data.batch_size", "data.drop_last"},
       kSometimes,
       "the place in the epoch is kept in samples, that in the schedule as a share of the run; not with "
       "`schedule.max_steps`, nor while LoRA warms up by the old count of steps or the new",
       refuse_other_batches},
      {kScheduleShape, kSometimes,
       "where the updates that are done would have had the same phases and learning rates: what is changed "
       "lies ahead. A finished run with more epochs would jump back to a high rate: start a new run with "
       "`init_from`",
       refuse_bent_schedule},
      {{"schedule"}, kMayChange, "peaks and multipliers: from here on"},
      {{"optimizer"}, kMayChange, "from here on"},
      {keys_of_losses("weight"), kSometimes,
       "from here on, but neither from 0 nor to 0: what only one loss trains has no state without it",
       refuse_switched_losses},
      {kLossStarts, kSometimes, "where neither the old nor the new epoch has begun", refuse_moved_starts},
      {learned_keys(), kNoEffect, "where what is learned begins"},
      {{"losses.itc.queue.size", "losses.itc.queue.probe_pairs"},
       kFixed,
       "the checkpoint holds a queue and a probe of that size"},
      {{"losses"}, kMayChange, "from here on"},
      {{"memory.episode", "memory.noise", "memory.drop_text", "memory.drop_image", "memory.caption_share"},
       kMayChange,
       "from here on"},
      {{"data.validation", "checkpoint.best_metric"},
       kMayChange,
       "`best` is chosen anew, among checkpoints that were validated on these pictures"},
      {{"checkpoint", "eval"}, kMayChange, "from here on"},
      {joined({"data.augmentation", "compressor.dropout", "vision.gradient_checkpointing", "data.workers",
               "data.prefetch_batches", "data.max_broken_fraction"},
              keys_of_adapters("lora_dropout")),
       kMayChange, "from here on"},
      {{"run.seed"}, kFixed, "it decides an epoch's order, negatives and the staleness probe's pairs"},
      {{"run.name", "run.output_dir", "run.log_dir"},
       kMayChange,
       "with `--resume PATH`: a run of its own goes on from there, the old one stays as it is"},
      {{"run"}, kMayChange, "from here on; the device stays of the same kind"},
      {{"vision.weights"},
       kSometimes,
       "another place, but the same weights (by their hash), where they are frozen",
       refuse_other_backbone},
      {{"language.tokenizer"}, kSometimes, "another place, but the same content", refuse_other_tokenizer},
      {keys_of_adapters("adapter"), kSometimes,
       "without effect, the checkpoint has its own; but not from or to none", refuse_adapter_or_none},
      {joined({"language.weights", "init_from"}, keys_of_adapters("init_lora_weights")), kNoEffect,
       "what a new run starts from"},
      {{"data", "vision", "lora", "compressor", "language", "fusion", "memory"},
       kFixed,
       "what the model is, and what it sees"}};
  return rules;
}

}  // namespace tessera::train
