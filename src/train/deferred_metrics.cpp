#include "train/deferred_metrics.h"

#include <ATen/ATen.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace tessera::train {

std::optional<ReadRecord> DeferredMetrics::flush() {
  if (!pending_) return std::nullopt;
  InFlight flight = std::move(*pending_);
  pending_.reset();
  if (flight.copied) flight.copied->synchronize();
  ReadRecord read{flight.record.step, std::move(flight.record.host), std::move(flight.record.keys)};
  for (std::size_t i = 0; i < flight.record.device.size(); ++i) {
    read.values[flight.record.device[i].first] = flight.values.const_data_ptr<double>()[i];
  }
  return read;
}

std::optional<ReadRecord> DeferredMetrics::push(StepRecord record) {
  std::vector<at::Tensor> values;
  for (const auto& [name, value] : record.device) {
    TORCH_CHECK(value.dim() == 0, "metric '", name, "' must be a scalar, got ", value.sizes());
    values.push_back(value.detach().to(device_, at::kDouble));
  }
  InFlight flight{std::move(record), at::empty({0}, at::kDouble), std::nullopt};
  if (!values.empty()) {
    const at::Tensor stacked = at::stack(values);
    if (device_.is_cpu()) {
      flight.values = stacked;
    } else {
      flight.values = at::empty(stacked.sizes(), at::TensorOptions().dtype(at::kDouble).pinned_memory(true));
      flight.values.copy_(stacked, /*non_blocking=*/true);
      flight.copied.emplace(device_.type());
      flight.copied->record(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_));
    }
  }
  std::optional<ReadRecord> before = flush();
  pending_ = std::move(flight);
  return before;
}

}  // namespace tessera::train
