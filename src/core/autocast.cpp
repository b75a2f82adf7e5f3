#include "core/autocast.h"

#include <ATen/autocast_mode.h>

#include "core/device.h"

namespace tessera {

AutocastState AutocastState::of(c10::DeviceType device) {
  return {device, at::autocast::is_autocast_enabled(device), at::autocast::get_autocast_dtype(device)};
}

AutocastScope::AutocastScope(const AutocastState& state) { enter(state); }

AutocastScope::AutocastScope(const Compute& compute) {
  if (compute.dtype != c10::kFloat) enter({compute.device.type(), /*enabled=*/true, compute.dtype});
}

void AutocastScope::enter(const AutocastState& state) {
  before_ = AutocastState::of(state.device);
  at::autocast::increment_nesting();
  at::autocast::set_autocast_dtype(state.device, state.dtype);
  at::autocast::set_autocast_enabled(state.device, state.enabled);
}

AutocastScope::~AutocastScope() {
  if (!before_) return;
  // The cache holds bf16 copies of the parameters; past the outermost scope an optimizer may change these.
  if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(before_->device, before_->enabled);
  at::autocast::set_autocast_dtype(before_->device, before_->dtype);
}

}  // namespace tessera
