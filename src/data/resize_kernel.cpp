#include "data/resize_kernel.h"

#include <cstring>

#include "ops/cpu/vectors.h"

namespace tessera::data {
namespace {

// Conversions between bytes and 32 bits are plain loops over arrays that don't overlap: the compiler makes
// vectors of them, while it takes its own vector type apart into single numbers there.

constexpr std::int32_t kHalf = 1 << (kWeightBits - 1);

/// Sums to bytes: rounded (kHalf is in the sums), towards minus infinity as PIL does, and clipped.
TESSERA_INLINE void to_bytes(const std::int32_t* __restrict sums, std::uint8_t* __restrict to,
                             std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int32_t value = sums[i] >> kWeightBits;
    const std::int32_t at_least_0 = value < 0 ? 0 : value;
    to[i] = static_cast<std::uint8_t>(at_least_0 > 255 ? 255 : at_least_0);
  }
}

TESSERA_INLINE void to_ints(const std::uint8_t* __restrict bytes, std::int32_t* __restrict to,
                            std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) to[i] = bytes[i];
}

using Pixel = ops::cpu::Vectors<std::int32_t, 16>::Indices;  // red, green, blue, and one that is ignored

/// One row among those that a vector holds side by side: `to` has a pixel of each, four numbers.
template <std::int64_t kRows>
TESSERA_INLINE void interleave(const std::uint8_t* row, std::int64_t width, std::int32_t* ints,
                               std::int32_t* to) {
  to_ints(row, ints, 3 * width);
  Pixel pixel;
  for (std::int64_t i = 0; i < width; ++i) {
    ops::cpu::load_vector(pixel, ints + 3 * i);
    ops::cpu::store_vector(pixel, to + 4 * kRows * i);
  }
}

template <std::int64_t kBytes>
TESSERA_INLINE void sum_along_rows_with(const PixelRows& rows, const ResizeWeights& weights,
                                        ResizeScratch& scratch, std::uint8_t* to, std::int64_t to_stride) {
  using Ints = typename ops::cpu::Vectors<std::int32_t, kBytes>::Indices;
  constexpr std::int64_t kRows = kBytes / 16;
  const auto outputs = static_cast<std::int64_t>(weights.first.size());
  const std::int64_t sums_of_row = 3 * outputs + 1;
  scratch.ints.resize(static_cast<std::size_t>(3 * rows.width + 1));
  scratch.pixels.resize(static_cast<std::size_t>(4 * kRows * rows.width));
  scratch.sums.resize(static_cast<std::size_t>(kRows * sums_of_row));
  for (std::int64_t first = 0; first < rows.count; first += kRows) {
    const std::int64_t count = rows.count - first < kRows ? rows.count - first : kRows;
    for (std::int64_t row = 0; row < count; ++row) {
      interleave<kRows>(rows.first + (first + row) * rows.stride, rows.width, scratch.ints.data(),
                        scratch.pixels.data() + 4 * row);
    }
    for (std::int64_t i = 0; i < outputs; ++i) {
      const auto output = static_cast<std::size_t>(i);
      const std::int32_t* from = scratch.pixels.data() + 4 * kRows * weights.first[output];
      const std::int32_t* weight = weights.weights.data() + i * weights.stride;
      Ints sums = Ints{} + kHalf, values;
      for (std::int64_t tap = 0; tap < weights.taps[output]; ++tap) {
        ops::cpu::load_vector(values, from + 4 * kRows * tap);
        sums += values * weight[tap];
      }
      Pixel parts[kRows];
      std::memcpy(&parts, &sums, sizeof parts);
      // The fourth number is none of the result: the next pixel overwrites it.
      for (std::int64_t row = 0; row < kRows; ++row)
        ops::cpu::store_vector(parts[row], scratch.sums.data() + row * sums_of_row + 3 * i);
    }
    for (std::int64_t row = 0; row < count; ++row)
      to_bytes(scratch.sums.data() + row * sums_of_row, to + (first + row) * to_stride, 3 * outputs);
  }
}

/// sums += Σ over kTaps rows.
template <std::int64_t kTaps>
TESSERA_INLINE void add_rows(const std::uint8_t* __restrict rows, std::int64_t stride,
                             const std::int32_t* __restrict weights, std::int32_t* __restrict sums,
                             std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    std::int32_t sum = sums[i];
    for (std::int64_t tap = 0; tap < kTaps; ++tap) sum += weights[tap] * rows[tap * stride + i];
    sums[i] = sum;
  }
}

template <std::int64_t kBytes>
TESSERA_INLINE void sum_down_columns_with(const std::uint8_t* rows, std::int64_t stride,
                                          const std::int32_t* weights, std::int64_t taps,
                                          ResizeScratch& scratch, std::uint8_t* to, std::int64_t count) {
  scratch.sums.assign(static_cast<std::size_t>(count), kHalf);
  std::int64_t tap = 0;
  for (; tap + 4 <= taps; tap += 4)
    add_rows<4>(rows + tap * stride, stride, weights + tap, scratch.sums.data(), count);
  for (; tap < taps; ++tap)
    add_rows<1>(rows + tap * stride, stride, weights + tap, scratch.sums.data(), count);
  to_bytes(scratch.sums.data(), to, count);
}

}  // namespace

TESSERA_KERNEL(void, sum_along_rows,
               (const PixelRows& rows, const ResizeWeights& weights, ResizeScratch& scratch, std::uint8_t* to,
                std::int64_t to_stride),
               (rows, weights, scratch, to, to_stride))
TESSERA_KERNEL(void, sum_down_columns,
               (const std::uint8_t* rows, std::int64_t stride, const std::int32_t* weights, std::int64_t taps,
                ResizeScratch& scratch, std::uint8_t* to, std::int64_t count),
               (rows, stride, weights, taps, scratch, to, count))

}  // namespace tessera::data
