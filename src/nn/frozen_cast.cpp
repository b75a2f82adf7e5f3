#include "nn/frozen_cast.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

namespace tessera::nn {

bool FrozenCast::is_of(const at::Tensor& weight, std::int64_t version) const {
  return source_ && source_->lock().get() == weight.storage().unsafeGetStorageImpl() &&
         offset_ == weight.storage_offset() && version_ == version;
}

at::Tensor FrozenCast::of(const at::Tensor& weight, std::int64_t version) {
  const auto device = weight.device().type();
  if (weight.requires_grad() || !at::autocast::is_autocast_enabled(device)) return weight;
  const at::ScalarType type = at::autocast::get_autocast_dtype(device);
  const std::lock_guard<std::mutex> lock(mutex_);
  if (!is_of(weight, version) || cast_.scalar_type() != type) {
    const at::NoGradGuard no_grad;
    cast_ = weight.to(type);
    source_.emplace(weight.storage().getWeakStorageImpl());
    offset_ = weight.storage_offset();
    version_ = version;
  }
  return cast_;
}

}  // namespace tessera::nn
