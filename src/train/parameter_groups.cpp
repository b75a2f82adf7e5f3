#include "train/parameter_groups.h"

#include <map>
#include <utility>

#include "config/training_config.h"
#include "model/stage1_model.h"

namespace tessera::train {

double peak_learning_rate(model::Part part, const ScheduleConfig& schedule) {
  const LearningRateMultipliers& multipliers = schedule.multipliers;
  switch (part) {
    case model::Part::kBackbone:
      return schedule.backbone_learning_rate;
    case model::Part::kLora:
      return schedule.lora_learning_rate;
    case model::Part::kCompressor:
      return schedule.learning_rate * multipliers.compressor;
    case model::Part::kLanguage:
      return schedule.learning_rate * multipliers.language;
    case model::Part::kFusion:
      return schedule.learning_rate * multipliers.fusion;
    case model::Part::kGates:
      return schedule.learning_rate * multipliers.gates;
    case model::Part::kMemory:
      return schedule.learning_rate * multipliers.memory;
    case model::Part::kHeads:
      return schedule.learning_rate * multipliers.heads;
    case model::Part::kTemperature:
      return schedule.learning_rate * multipliers.temperature;
  }
  TORCH_CHECK(false, "peak_learning_rate: unknown part");
}

std::vector<ParameterGroup> parameter_groups(const model::Stage1Model& model, const ScheduleConfig& schedule,
                                             const OptimizerConfig& optimizer) {
  std::map<std::pair<model::Part, bool>, ParameterGroup> groups;
  for (const model::NamedParameter& parameter : model.named_parts()) {
    if (!parameter.tensor.requires_grad()) continue;
    const bool decays = parameter.tensor.dim() > 1 && optimizer.weight_decay > 0;
    ParameterGroup& group = groups[{parameter.part, decays}];
    group.name = model::part_name(parameter.part);
    group.peak_learning_rate = peak_learning_rate(parameter.part, schedule);
    group.weight_decay = decays ? optimizer.weight_decay : 0.0;
    group.names.push_back(parameter.name);
    group.parameters.push_back(parameter.tensor);
  }
  std::vector<ParameterGroup> list;
  for (auto& [key, group] : groups) list.push_back(std::move(group));
  return list;
}

}  // namespace tessera::train
