#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::losses {

struct MaxSimScores {
  at::Tensor image_to_text;  ///< [B_i, B_t]: mean over the patches of the max over the valid tokens
  at::Tensor text_to_image;  ///< [B_i, B_t]: mean over the valid tokens of the max over the patches
};

/// Which kernel computes MaxSim (maxsim_kernels.h).
enum class MaxSimKernel {
  kAutomatic,  ///< the fastest that the device has
  kCpu,        ///< CPU only
  kPortable,   ///< any device
};

/// Late-interaction similarity (FILIP, Yao et al. 2021, eq. 3-4) between every image and every text.
///
/// The similarities of single tokens never exist all at once, only those of a chunk that fits a cache. The
/// backward pass uses nothing but the arg-max indices; its result is the same at every run and for every
/// number of threads. Where several are the greatest, the first counts. What stands at padding has no effect,
/// whatever it is. Once differentiable. Autocast is without effect here.
///
/// @param patches [B_i, P, D] L2-normalised image tokens, float32, float64 or bfloat16
/// @param tokens  [B_t, T, D] L2-normalised text tokens, same dtype and device
/// @param mask    [B_t, T] bool, true for real tokens; a text without any has the score 0 and no gradient
/// @return float32 scores, float64 for float64. Products of bfloat16 are summed in float32
/// @throws c10::Error where shapes, dtypes or devices disagree
MaxSimScores maxsim(const at::Tensor& patches, const at::Tensor& tokens, const at::Tensor& mask,
                    MaxSimKernel kernel = MaxSimKernel::kAutomatic);

}  // namespace tessera::losses
