#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace tessera::ops::cpu {

/// Rows that are computed together: a block of them stays in the second-level cache.
constexpr std::int64_t kRowBlock = 96;
/// Multiplications that are worth a thread of their own.
constexpr std::int64_t kProductGrain = 1 << 20;

/// The runs of rows that `parts` share; all but the last are whole blocks of registers.
struct RowRange {
  std::int64_t begin, end;

  RowRange(std::int64_t rows, std::int64_t part, std::int64_t parts) {
    constexpr std::int64_t kUnit = 12;
    const std::int64_t units = (rows + kUnit - 1) / kUnit;
    begin = std::min(rows, units * part / parts * kUnit);
    end = std::min(rows, units * (part + 1) / parts * kUnit);
  }
};

/// As many parts as threads, or fewer where there is little to do.
/// @param row_cost  multiplications a row
inline std::int64_t row_parts(std::int64_t rows, std::int64_t row_cost) {
  const std::int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  return std::clamp<std::int64_t>(rows * row_cost / kProductGrain, 1, threads);
}

/// Calls work(part, first row, count) for blocks of rows, each part on a thread.
template <typename Work>
void for_row_blocks(std::int64_t rows, std::int64_t parts, const Work& work) {
  at::parallel_for(0, parts, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t part = begin; part < end; ++part) {
      const RowRange range(rows, part, parts);
      for (std::int64_t row = range.begin; row < range.end; row += kRowBlock)
        work(part, row, std::min(kRowBlock, range.end - row));
    }
  });
}

}  // namespace tessera::ops::cpu
