#include "train/dry_run.h"

#include "core/device.h"
#include "model/build.h"
#include "model/parameter_table.h"
#include "train/phase_schedule.h"
#include "train/trainer.h"
#include "vision/dinov2.h"

namespace tessera::train {

namespace {

constexpr double kMiB = 1024.0 * 1024.0;

struct Sizes {
  double weights = 0;
  double gradients = 0;
  double moments = 0;
  double activations = 0;
  double queue = 0;

  double total() const { return weights + gradients + moments + activations + queue; }
};

/// What a transformer block keeps for its backward pass, in floats a token: inputs of the two norms, of the
/// four attention products and of the feed-forward's products.
double kept_by_block(double hidden, double inner) { return 8.0 * hidden + 2.0 * inner; }

Sizes estimate(const Config& config, const model::Stage1Model& model, bool encoder_trains) {
  double all = 0;
  for (const model::NamedParameter& parameter : model.named_parts())
    all += static_cast<double>(parameter.tensor.numel());
  const auto trained = static_cast<double>(model.trainable_parameters());
  const auto batch = static_cast<double>(config.data.batch_size);
  const double patches_a_side =
      static_cast<double>(config.data.image_size) / static_cast<double>(model.vision().patch_size());
  const double image_tokens = 1 + patches_a_side * patches_a_side;
  const auto* dinov2 = dynamic_cast<const vision::Dinov2Model*>(&model.vision());
  TORCH_CHECK(dinov2 != nullptr, "dry run: the backbone is no Dinov2Model");
  const vision::Dinov2Config& encoder = dinov2->config();
  const auto text_width = static_cast<double>(config.language.hidden_size);

  double kept =
      image_tokens * static_cast<double>(config.compressor.hidden_size + 2 * config.compressor.output_size);
  if (encoder_trains) {
    const auto width = static_cast<double>(model.vision().hidden_size());
    kept += image_tokens * static_cast<double>(encoder.num_hidden_layers) *
            kept_by_block(width, static_cast<double>(encoder.intermediate_size()));
  }
  kept += static_cast<double>(config.language.max_tokens * config.language.num_hidden_layers) *
          kept_by_block(text_width, 2.0 * static_cast<double>(config.language.intermediate_size));
  const double queue = static_cast<double>(config.losses.itc.queue.size) *
                       (2.0 * static_cast<double>(config.fusion.embedding_size) * 4.0 + 16.0);
  return {4 * all, 4 * trained, 8 * trained, 4 * kept * batch, queue};
}

std::string memory_line(const Sizes& sizes) {
  return fmt::format(
      "memory a rank (estimate): weights {:.0f} MiB + gradients {:.0f} + Adam {:.0f} + activations {:.0f} + "
      "queue "
      "{:.0f} = {:.0f} MiB",
      sizes.weights / kMiB, sizes.gradients / kMiB, sizes.moments / kMiB, sizes.activations / kMiB,
      sizes.queue / kMiB, sizes.total() / kMiB);
}

std::string describe_phase(const Config& config, model::Stage1Model& model, Phase phase) {
  model.set_lora_trainable(phase == Phase::kLoraTrains);
  const bool encoder_trains =
      phase == Phase::kLoraTrains || config.vision.trainable == TrainableChoice::kFull;
  std::string text = phase_line(phase, model.trainable_parameters());
  if (!text.empty()) text += "\n";
  return fmt::format("{}{}\n{}\n", text, model::parameter_table(model),
                     memory_line(estimate(config, model, encoder_trains)));
}

}  // namespace

std::string dry_run_report(const Config& config) {
  const Compute compute = choose_compute(config.run);
  const model::BuiltModel built = model::build_model(config, std::nullopt);
  std::string report = fmt::format("dry run of {} on {}\n", config.run.name, compute.describe());
  // Steps don't matter for which phases there are; any number of them will do.
  const PhaseSchedule schedule(config.schedule, built.model->has_lora(), 1);
  for (const Phase phase : {Phase::kOnly, Phase::kLoraFrozen, Phase::kLoraTrains}) {
    const bool comes =
        schedule.phase_of(0) == phase || schedule.phase_of(config.schedule.epochs - 1) == phase;
    if (comes) report += fmt::format("\n{}", describe_phase(config, *built.model, phase));
  }
  return report;
}

}  // namespace tessera::train
