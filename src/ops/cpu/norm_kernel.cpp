#include "ops/cpu/norm_kernel.h"

#include <cmath>

#include "ops/cpu/vectors.h"

namespace tessera::ops::cpu {
namespace {

template <std::int64_t kBytes>
TESSERA_INLINE void norm_rows_with(const Norm& norm, std::int64_t rows, const float* x, float* y,
                                   NormStatistics* statistics) {
  using V = Vectors<float, kBytes>;
  using Floats = typename V::Values;
  const auto width = static_cast<float>(norm.width);
  for (std::int64_t row = 0; row < rows; ++row, x += norm.width, y += norm.width) {
    Floats value, weight, bias = {}, sum = {}, squares = {};
    if (norm.centred) {
      for (std::int64_t i = 0; i < norm.width; i += V::kLanes) {
        load_vector(value, x + i);
        sum += value;
      }
      spread_sum<V::kLanes / 2>(sum, V::kAllLanes);
    }
    const float mean = sum[0] / width;
    for (std::int64_t i = 0; i < norm.width; i += V::kLanes) {
      load_vector(value, x + i);
      value -= mean;
      squares += value * value;
    }
    spread_sum<V::kLanes / 2>(squares, V::kAllLanes);
    const float scale = 1 / std::sqrt(squares[0] / width + static_cast<float>(norm.eps));
    statistics[row] = {mean, scale};
    for (std::int64_t i = 0; i < norm.width; i += V::kLanes) {
      load_vector(value, x + i);
      load_vector(weight, norm.weight + i);
      if (norm.bias != nullptr) load_vector(bias, norm.bias + i);
      store_vector((value - mean) * scale * weight + bias, y + i);
    }
  }
}

/// With x̂ = (x − mean) · scale and g = grad · weight:
/// grad_x = scale · (g − mean(g) − x̂ · mean(g · x̂)), without mean(g) where the norm isn't centred.
template <std::int64_t kBytes>
TESSERA_INLINE void norm_backward_rows_with(const Norm& norm, std::int64_t rows, const float* grad,
                                            const float* x, const NormStatistics* statistics,
                                            const float* beside, const NormGradients& to) {
  using V = Vectors<float, kBytes>;
  using Floats = typename V::Values;
  const auto width = static_cast<float>(norm.width);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t first = row * norm.width;
    const NormStatistics& of_row = statistics[row];
    Floats gradient, value, weight, other = {}, sum = {}, product = {};
    for (std::int64_t i = 0; i < norm.width; i += V::kLanes) {
      load_vector(gradient, grad + first + i);
      load_vector(value, x + first + i);
      load_vector(weight, norm.weight + i);
      sum += gradient * weight;
      product += gradient * weight * ((value - of_row.mean) * of_row.scale);
    }
    spread_sum<V::kLanes / 2>(sum, V::kAllLanes);
    spread_sum<V::kLanes / 2>(product, V::kAllLanes);
    const float mean = norm.centred ? sum[0] / width : 0;
    const float shared = product[0] / width;
    for (std::int64_t i = 0; i < norm.width; i += V::kLanes) {
      load_vector(gradient, grad + first + i);
      load_vector(value, x + first + i);
      load_vector(weight, norm.weight + i);
      if (beside != nullptr) load_vector(other, beside + first + i);
      const Floats normed = (value - of_row.mean) * of_row.scale;
      store_vector(other + of_row.scale * (gradient * weight - mean - normed * shared), to.x + first + i);
      if (to.weight != nullptr) {
        Floats total;
        load_vector(total, to.weight + i);
        store_vector(total + gradient * normed, to.weight + i);
      }
      if (to.bias != nullptr) {
        Floats total;
        load_vector(total, to.bias + i);
        store_vector(total + gradient, to.bias + i);
      }
    }
  }
}

}  // namespace

TESSERA_KERNEL(void, norm_rows,
               (const Norm& norm, std::int64_t rows, const float* x, float* y, NormStatistics* statistics),
               (norm, rows, x, y, statistics))
TESSERA_KERNEL(void, norm_backward_rows,
               (const Norm& norm, std::int64_t rows, const float* grad, const float* x,
                const NormStatistics* statistics, const float* beside, const NormGradients& to),
               (norm, rows, grad, x, statistics, beside, to))

}  // namespace tessera::ops::cpu
