#pragma once

#include <cstdint>
#include <vector>

namespace tessera::data {

constexpr int kWeightBits = 22;  ///< PIL's: of 32, a byte and two bits for sums that overshoot are taken

/// How outputs along one edge are sums of inputs: output i is Σ_t weights[i · stride + t] · input[first[i] +
/// t] over its `taps[i]` taps.
struct ResizeWeights {
  std::vector<std::int64_t> first;
  std::vector<std::int64_t> taps;
  std::int64_t stride = 0;            ///< the most taps that an output may have
  std::vector<std::int32_t> weights;  ///< in units of 2^-22; 0 past an output's own taps
};

/// Memory for the kernels, kept from row to row.
struct ResizeScratch {
  std::vector<std::int32_t> ints, pixels, sums;
};

/// Rows of pixels of three bytes.
struct PixelRows {
  const std::uint8_t* first = nullptr;
  std::int64_t stride = 0;  ///< bytes from a row to the next
  std::int64_t count = 0;
  std::int64_t width = 0;  ///< pixels
};

/// Sums along each row, over its pixels.
/// @param to         where the first row of results goes, pixels of three bytes
/// @param to_stride  bytes to the next
void sum_along_rows(const PixelRows& rows, const ResizeWeights& weights, ResizeScratch& scratch,
                    std::uint8_t* to, std::int64_t to_stride);

/// A row of sums down columns, to[i] = Σ_t weights[t] · rows[t · stride + i].
/// @param stride  bytes from a row to the next
/// @param count   of columns
void sum_down_columns(const std::uint8_t* rows, std::int64_t stride, const std::int32_t* weights,
                      std::int64_t taps, ResizeScratch& scratch, std::uint8_t* to, std::int64_t count);

}  // namespace tessera::data
