#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/StorageImpl.h>

#include <cstdint>
#include <mutex>
#include <optional>

namespace tessera::nn {

/// A weight in the type that autocast computes in. Autocast keeps its casts of what trains for a step, and
/// casts what is frozen anew at every use; here that is done once, and again when the weight has changed.
/// Several threads may ask at once, as they do who share a model: the first makes the cast, the others wait.
class FrozenCast {
 public:
  /// @return the weight itself where it trains or no autocast is on
  at::Tensor of(const at::Tensor& weight) { return of(weight, weight._version()); }
  /// @param version  another one says that the weight has changed: for a view of several parameters, which
  ///                 knows of changes to its own alone
  at::Tensor of(const at::Tensor& weight, std::int64_t version);

 private:
  bool is_of(const at::Tensor& weight, std::int64_t version) const;

  std::mutex mutex_;  ///< of all that follows
  at::Tensor cast_;
  /// Which memory it was made from. An address won't do: what was freed there may be another weight by now.
  std::optional<c10::weak_intrusive_ptr<c10::StorageImpl>> source_;
  std::int64_t offset_ = 0;
  std::int64_t version_ = 0;
};

}  // namespace tessera::nn
