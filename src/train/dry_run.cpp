#include "train/dry_run.h"

#include "config/config.h"
#include "core/device.h"
#include "model/adaptable_parts.h"
#include "model/build.h"
#include "model/parameter_table.h"
#include "model/stage1_model.h"
#include "train/loop.h"
#include "train/memory_estimate.h"
#include "train/phase_schedule.h"

namespace tessera::train {

namespace {

constexpr double kMiB = 1024.0 * 1024.0;

std::string memory_line(const MemoryEstimate& memory) {
  return fmt::format(
      "memory a rank (estimate): program {:.0f} MiB + weights {:.0f} + Adam {:.0f} + queue {:.0f} + batches "
      "{:.0f} + step {:.0f} (activations {:.0f}, gradients {:.0f}) = {:.0f} MiB",
      memory.program / kMiB, memory.weights / kMiB, memory.moments / kMiB, memory.queue / kMiB,
      memory.batches / kMiB, memory.step() / kMiB, memory.activations / kMiB, memory.gradients / kMiB,
      memory.total() / kMiB);
}

std::string describe_phase(const Config& config, const Compute& compute, model::Stage1Model& model,
                           Phase phase) {
  model.set_lora_trainable(phase == Phase::kLoraTrains);
  std::string text = phase_line(phase, model.trainable_parameters());
  if (!text.empty()) text += "\n";
  return fmt::format("{}{}\n{}\n", text, model::parameter_table(model),
                     memory_line(estimate_memory(config, model, compute)));
}

}  // namespace

std::string dry_run_report(const Config& config) {
  const Compute compute = choose_compute(config.run.device, config.run.precision, config.run.threads);
  const model::BuiltModel built = model::build_model(config, std::nullopt);
  std::string report = fmt::format("dry run of {} on {}\n", config.run.name, compute.describe());
  const model::AdapterNotes notes = model::notes_on_adapters(config, *built.model);
  for (const std::string& line : notes.unused) report += fmt::format("warning: {}\n", line);
  for (const std::string& line : notes.remarks) report += line + "\n";
  // Steps don't matter for which phases there are; any number of them will do.
  const PhaseSchedule schedule(config.schedule, built.model->has_lora(), 1);
  for (const Phase phase : {Phase::kOnly, Phase::kLoraFrozen, Phase::kLoraTrains}) {
    const bool comes =
        schedule.phase_of(0) == phase || schedule.phase_of(config.schedule.epochs - 1) == phase;
    if (comes) report += fmt::format("\n{}", describe_phase(config, compute, *built.model, phase));
  }
  return report;
}

}  // namespace tessera::train
