#include "vision/frozen_cast.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>

namespace tessera::vision {

at::Tensor FrozenCast::of(const at::Tensor& weight) {
  const auto device = weight.device().type();
  if (weight.requires_grad() || !at::autocast::is_autocast_enabled(device)) return weight;
  const at::ScalarType type = at::autocast::get_autocast_dtype(device);
  const bool is_known = cast_.defined() && source_ == weight.const_data_ptr() &&
                        version_ == weight._version() && cast_.scalar_type() == type;
  if (!is_known) {
    const at::NoGradGuard no_grad;
    cast_ = weight.to(type);
    source_ = weight.const_data_ptr();
    version_ = weight._version();
  }
  return cast_;
}

}  // namespace tessera::vision
