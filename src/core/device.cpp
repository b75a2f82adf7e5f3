#include "core/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>
#include <ATen/detail/CUDAHooksInterface.h>

#include "core/error.h"

namespace tessera {

namespace {

// Everything about GPUs is asked through ATen's hooks: they are part of the CPU library and answer "no" where
// the CUDA library isn't linked, so that this file is the same in both builds.
bool built_with_cuda() { return at::globalContext().hasCUDART(); }

c10::Device choose_device(DeviceChoice choice) {
  if (choice == DeviceChoice::kCpu) {
    return c10::kCPU;
  }
  if (at::hasCUDA()) {
    return {c10::kCUDA, 0};
  }
  if (choice == DeviceChoice::kCuda) {
    throw ConfigError(fmt::format("run.device: cuda was asked for, but {}; use cpu or auto",
                                  built_with_cuda() ? "this machine has no GPU that CUDA can use"
                                                    : "this program was built without CUDA"));
  }
  return c10::kCPU;
}

/// Whether the GPU has bfloat16 units (compute capability 8.0). The hook that cuDNN's recurrent layers ask is
/// the one that tells it without a symbol of the CUDA library.
bool gpu_computes_in_bf16() { return at::detail::getCUDAHooks().supportsBFloat16RNNWithCuDNN(); }

c10::ScalarType choose_dtype(PrecisionChoice choice, const c10::Device& device) {
  switch (choice) {
    case PrecisionChoice::kFp32:
      return c10::kFloat;
    case PrecisionChoice::kBf16:
      return c10::kBFloat16;
    case PrecisionChoice::kAuto:
      break;
  }
  return device.is_cuda() && gpu_computes_in_bf16() ? c10::kBFloat16 : c10::kFloat;
}

}  // namespace

std::string Compute::describe() const {
  return fmt::format("{}, {}, {} threads", device.str(), dtype == c10::kBFloat16 ? "bf16" : "fp32",
                     at::get_num_threads());
}

Compute choose_compute(DeviceChoice device, PrecisionChoice precision, std::int64_t threads) {
  Compute compute;
  compute.device = choose_device(device);
  compute.dtype = choose_dtype(precision, compute.device);
  if (threads > 0) {
    at::set_num_threads(static_cast<int>(threads));
  }
  return compute;
}

}  // namespace tessera
