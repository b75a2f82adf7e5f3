#include "ops/kernels.h"

#include "ops/cpu/kernels.h"

namespace tessera::ops {

const Kernels& kernels_of(c10::Device device) {
  static constexpr Kernels kCpu{.attention = &cpu::kAttention,
                                .dropout = &cpu::kDropout,
                                .feed_forward = &cpu::kFeedForward,
                                .linear = &cpu::kLinear,
                                .rms_norm = &cpu::kRmsNorm,
                                .rotation = &cpu::kRotation,
                                .swiglu = &cpu::kSwiglu};
  static constexpr Kernels kNone;
  return device.is_cpu() ? kCpu : kNone;
}

}  // namespace tessera::ops
