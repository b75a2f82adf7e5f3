#pragma once

#include <c10/core/Device.h>

namespace tessera::ops {

struct AttentionKernel;
struct DropoutKernel;
struct FeedForwardKernel;
struct LinearKernel;
struct RmsNormKernel;
struct RotationKernel;
struct SwigluKernel;

/// A device's kernels, one an op: what it serves, its forward and its backward pass (X_kernels.h). They run
/// below autograd and autocast, on arguments whose shapes have been checked. Null: LibTorch's operations do
/// the op's work.
struct Kernels {
  const AttentionKernel* attention = nullptr;
  const DropoutKernel* dropout = nullptr;
  const FeedForwardKernel* feed_forward = nullptr;
  const LinearKernel* linear = nullptr;
  const RmsNormKernel* rms_norm = nullptr;
  const RotationKernel* rotation = nullptr;
  const SwigluKernel* swiglu = nullptr;
};

/// A device's kernels are entered in kernels.cpp, and nowhere else.
const Kernels& kernels_of(c10::Device device);

/// @return the kernel, or null where there is none or it doesn't serve these arguments
template <typename Kernel, typename... Arguments>
const Kernel* serving(const Kernel* kernel, const Arguments&... arguments) {
  return kernel != nullptr && kernel->serves(arguments...) ? kernel : nullptr;
}

}  // namespace tessera::ops
