#pragma once

#include <memory>
#include <vector>

#include "losses/losses_config.h"
#include "objectives/objective.h"

namespace tessera::objectives {

struct PassMemory;
struct ObjectiveMemory;

/// What is known of an objective before there is a run.
struct ObjectiveEntry {
  const char* name;  ///< under `losses` in a configuration, in "loss_NAME", and as a profiler's scope
  Reads reads;
  std::unique_ptr<Objective> (*make)(const StepContext&);
  /// What its pass keeps for the backward pass (objectives/objective_memory.h).
  ObjectiveMemory (*memory)(const PassMemory&);
};

/// ObjectiveEntry::make of a class.
template <typename T>
std::unique_ptr<Objective> make_objective(const StepContext& context) {
  return std::make_unique<T>(context);
}

/// In the order in which a step computes them, and adds them up.
const std::vector<ObjectiveEntry>& all_objectives();

/// Those of weight above 0.
std::vector<ObjectiveEntry> chosen_objectives(const losses::LossesConfig& losses);

/// What the objectives of weight above 0 read, all together.
Reads reads_of(const losses::LossesConfig& losses);

/// Whether past batches are kept for them: something reads the queue, and its size is not 0.
bool has_queue(const losses::LossesConfig& losses);

}  // namespace tessera::objectives
