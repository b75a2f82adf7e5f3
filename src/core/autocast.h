#pragma once

#include <c10/core/DeviceType.h>
#include <c10/core/ScalarType.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <optional>

namespace tessera {
struct Compute;
}

namespace tessera {

/// How autocast stands for a device's operations on this thread.
struct AutocastState {
  c10::DeviceType device;
  bool enabled;
  c10::ScalarType dtype;  ///< that products compute in where it is enabled

  static AutocastState of(c10::DeviceType device);
};

/// Autocast for a scope, on this thread; restored on exit also by an exception.
class AutocastScope {
 public:
  explicit AutocastScope(const AutocastState& state);
  /// On in the run's precision; where that is float32 autocast stays as it is.
  explicit AutocastScope(const Compute& compute);
  ~AutocastScope();
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  void enter(const AutocastState& state);

  std::optional<AutocastState> before_;
};

/// No autocast on any device for a scope, on this thread: what is computed here keeps the precision of its
/// operands.
class NoAutocast {
  c10::impl::ExcludeDispatchKeyGuard guard_{c10::autocast_dispatch_keyset};
};

}  // namespace tessera
