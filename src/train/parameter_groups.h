#pragma once

#include <vector>

#include "train/adamw.h"

namespace tessera {
struct OptimizerConfig;
struct ScheduleConfig;
}  // namespace tessera
namespace tessera::model {
enum class Part;
class Stage1Model;
}  // namespace tessera::model

namespace tessera::train {

/// The trainable parameters of a model as groups by part, each part in up to two: with and without weight
/// decay. Tensors of rank ≤ 1 (biases, norms, gates, temperatures) get no weight decay. Frozen parameters are
/// left out.
std::vector<ParameterGroup> parameter_groups(const model::Stage1Model& model, const ScheduleConfig& schedule,
                                             const OptimizerConfig& optimizer);

/// The peak learning rate of a part.
double peak_learning_rate(model::Part part, const ScheduleConfig& schedule);

}  // namespace tessera::train
