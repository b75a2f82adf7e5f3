#include "nn/linear_group.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "nn/packed_tensors.h"
#include "ops/activations.h"
#include "ops/linear.h"

namespace tessera::nn {

LinearGroup::LinearGroup(std::vector<Linear> linears) : linears_(std::move(linears)) { pack(); }

void LinearGroup::pack() {
  std::vector<at::Tensor*> weights, biases;
  for (Linear& linear : linears_) {
    weights.push_back(&linear->weight);
    if (linear->bias.defined()) biases.push_back(&linear->bias);
  }
  lay_together(weights);
  if (!biases.empty()) lay_together(biases);
}

bool LinearGroup::has_active_adapter() const {
  return std::any_of(linears_.begin(), linears_.end(),
                     [](const Linear& linear) { return linear->has_active_adapter(); });
}

bool LinearGroup::is_one_product() const {
  std::vector<at::Tensor> weights, biases;
  for (const Linear& linear : linears_) {
    if (!linear->is_frozen() || (linear->has_active_adapter() && linear->lora_options().dora)) return false;
    weights.push_back(linear->weight);
    if (linear->bias.defined()) biases.push_back(linear->bias);
  }
  return lie_together(weights) && lie_together(biases);
}

at::Tensor LinearGroup::base_products(const at::Tensor& input) {
  const auto count = static_cast<std::int64_t>(linears_.size());
  const LinearImpl& first = *linears_.front();
  std::int64_t version = 0;  // each of them may change alone
  for (const Linear& linear : linears_) version += linear->weight._version();
  return ops::linear(input, cast_.of(together(first.weight, count), version),
                     first.bias.defined() ? together(first.bias, count) : at::Tensor());
}

std::vector<at::Tensor> LinearGroup::outputs(const at::Tensor& rows) {
  std::vector<at::Tensor> outputs = base_products(rows).chunk(static_cast<std::int64_t>(linears_.size()), 1);
  // Dropout is each adapter's own; without it they read the same, and their A sides are one product.
  const auto drops = [](const LinearImpl& linear) {
    return linear.is_training() && linear.lora_options().dropout > 0;
  };
  std::vector<at::Tensor> a_sides;
  for (const Linear& linear : linears_) {
    if (linear->has_active_adapter() && !drops(*linear)) a_sides.push_back(linear->adapter()->a->weight);
  }
  at::Tensor shared;
  if (!a_sides.empty()) shared = ops::linear(rows, a_sides.size() == 1 ? a_sides[0] : at::cat(a_sides));
  std::int64_t next = 0;
  for (std::size_t i = 0; i < linears_.size(); ++i) {
    const LinearImpl& linear = *linears_[i];
    if (!linear.has_active_adapter()) continue;
    const LoraAdapter& adapter = *linear.adapter();
    at::Tensor low_rank;
    if (drops(linear)) {
      low_rank = ops::linear(ops::dropout(rows, adapter.options.dropout), adapter.a->weight);
    } else {
      low_rank = shared.slice(1, next, next + adapter.options.r);
      next += adapter.options.r;
    }
    outputs[i] = adapter.added_to(outputs[i], low_rank, /*in_place=*/false);  // a view of the one product
  }
  return outputs;
}

}  // namespace tessera::nn
