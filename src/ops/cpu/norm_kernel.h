#pragma once

#include <cstdint>

/// Normalisation of rows, float32 on the calling thread; widths of whole vectors (vectors.h).

namespace tessera::ops::cpu {

/// (x − mean) · scale · weight + bias over a row, scale = 1/√(mean of squares + eps). Layer norm where
/// `centred`; RMS norm (Zhang and Sennrich 2019) where not, which has no bias.
struct Norm {
  std::int64_t width = 0;
  const float* weight = nullptr;
  const float* bias = nullptr;  ///< or null
  double eps = 0;
  bool centred = false;
};

/// Of one row, for the backward pass.
struct NormStatistics {
  float mean, scale;  ///< mean 0 where not centred
};

void norm_rows(const Norm& norm, std::int64_t rows, const float* x, float* y, NormStatistics* statistics);

struct NormGradients {
  float* x;       ///< [rows, width]
  float* weight;  ///< [width], added to; or null
  float* bias;    ///< likewise
};

/// @param beside  null, or [rows, width]: a gradient that x gets beside this one; may be `to.x`
void norm_backward_rows(const Norm& norm, std::int64_t rows, const float* grad, const float* x,
                        const NormStatistics* statistics, const float* beside, const NormGradients& to);

}  // namespace tessera::ops::cpu
