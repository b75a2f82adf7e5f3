#include "ops/cpu/matrix_product.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>

namespace tessera::ops::cpu {
namespace {

/// Rows of B taken at once, so that a panel of them stays in the second-level cache.
constexpr std::int64_t kDepthBlock = 512;

struct Panel {
  const float* data;
  std::int64_t columns;  ///< of C; the panel itself has whole vectors
};

/// The last columns, fewer than a vector: by way of memory that has room for a whole one.
template <std::int64_t kBytes>
TESSERA_INLINE void multiply_rest(std::int64_t rows, std::int64_t columns, Left a, const Right& b, Result c,
                                  std::int64_t depth, Addend addend) {
  using Target = RegistersOf<kBytes>;
  constexpr std::int64_t kLanes = Target::kLanes;
  constexpr std::int64_t kRows = 32;
  alignas(64) float whole[kRows * kLanes];
  while (rows > 0) {
    const std::int64_t count = std::min(kRows, rows);
    for (std::int64_t row = 0; row < count; ++row) {
      for (std::int64_t lane = 0; lane < kLanes; ++lane) {
        const bool adds = addend.data != nullptr && lane < columns;
        whole[row * kLanes + lane] = adds ? addend.data[row * addend.stride + lane] : 0;
      }
    }
    Target::multiply(count, kLanes, a, b, Result{whole, kLanes}, depth, Addend{whole, kLanes});
    for (std::int64_t row = 0; row < count; ++row) {
      std::memcpy(c.data + row * c.stride, whole + row * kLanes,
                  static_cast<std::size_t>(columns) * sizeof(float));
    }
    a.data += count * a.row_stride;
    c.data += count * c.stride;
    addend = addend.from_row(count);
    rows -= count;
  }
}

template <std::int64_t kBytes>
TESSERA_INLINE void panel_product_with(std::int64_t rows, const Left& a, const Panel& panel,
                                       std::int64_t depth, const Result& c, const Addend& addend) {
  using Target = RegistersOf<kBytes>;
  const std::int64_t whole = panel.columns / Target::kLanes * Target::kLanes;
  const Right b{panel.data, Target::kPanel};
  if (whole > 0) Target::multiply(rows, whole, a, b, c, depth, addend);
  if (whole < panel.columns) {
    multiply_rest<kBytes>(rows, panel.columns - whole, a, Right{b.data + whole, b.stride},
                          Result{c.data + whole, c.stride}, depth, addend.from_column(whole));
  }
}
TESSERA_KERNEL(void, panel_product,
               (std::int64_t rows, const Left& a, const Panel& panel, std::int64_t depth, const Result& c,
                const Addend& addend),
               (rows, a, panel, depth, c, addend))

template <std::int64_t kBytes>
TESSERA_INLINE void add_to_rows_with(std::int64_t rows, std::int64_t columns, const float* row,
                                     float* values) {
  for_vectors<kBytes>(columns, [&](std::int64_t i, auto part) TESSERA_INLINED {
    typename Vectors<float, kBytes>::Values added, value;
    load(added, row + i, part);
    for (std::int64_t r = 0; r < rows; ++r) {
      load(value, values + r * columns + i, part);
      store(value + added, values + r * columns + i, part);
    }
  });
}
template <std::int64_t kBytes>
TESSERA_INLINE void add_rows_with(std::int64_t rows, std::int64_t columns, const float* values,
                                  std::int64_t stride, float* sums) {
  for_vectors<kBytes>(columns, [&](std::int64_t i, auto part) TESSERA_INLINED {
    typename Vectors<float, kBytes>::Values sum, value;
    load(sum, sums + i, part);
    for (std::int64_t row = 0; row < rows; ++row) {
      load(value, values + row * stride + i, part);
      sum += value;
    }
    store(sum, sums + i, part);
  });
}
}  // namespace

std::int64_t PackedMatrix::columns_of_panel() {
  switch (instruction_set()) {
    case InstructionSet::kAvx512:
      return RegistersOf<64>::kPanel;
    case InstructionSet::kAvx2:
      return RegistersOf<32>::kPanel;
    default:
      return RegistersOf<16>::kPanel;
  }
}

MatrixView::MatrixView(const at::Tensor& matrix)
    : MatrixView(matrix.const_data_ptr<float>(), matrix.size(0), matrix.size(1), matrix.size(1), 1) {
  TORCH_INTERNAL_ASSERT(matrix.dim() == 2 && matrix.is_contiguous());
}

PackedMatrix::PackedMatrix(std::int64_t depth, std::int64_t columns)
    : depth_(depth),
      columns_(columns),
      panel_columns_(columns_of_panel()),
      panels_((columns + panel_columns_ - 1) / panel_columns_),
      memory_(at::empty({panels_ * depth * panel_columns_}, at::kFloat)),
      data_(memory_.mutable_data_ptr<float>()) {}

PackedMatrix::PackedMatrix(const MatrixView& matrix) : PackedMatrix(matrix.rows, matrix.columns) {
  constexpr std::int64_t kGrain = 16384;
  at::parallel_for(0, panels_, kGrain / (depth_ * panel_columns_) + 1,
                   [&](std::int64_t begin, std::int64_t end) {
                     for (std::int64_t panel = begin; panel < end; ++panel) pack_panel(matrix, panel);
                   });
}

void PackedMatrix::pack(const MatrixView& matrix) {
  TORCH_INTERNAL_ASSERT(matrix.rows <= depth_ && matrix.columns == columns_);
  for (std::int64_t panel = 0; panel < panels_; ++panel) pack_panel(matrix, panel);
}

void PackedMatrix::pack_panel(const MatrixView& matrix, std::int64_t panel) {
  const std::int64_t first = panel * panel_columns_;
  const std::int64_t count = std::min(panel_columns_, columns_ - first);
  const float* from = matrix.data + first * matrix.column_stride;
  float* to = data_ + panel * depth_ * panel_columns_;
  if (matrix.column_stride == 1) {
    for (std::int64_t row = 0; row < matrix.rows; ++row) {
      std::memcpy(to + row * panel_columns_, from + row * matrix.row_stride,
                  static_cast<std::size_t>(count) * sizeof(float));
    }
  } else {
    // A few rows of all columns at a time: their lines are read and written while they are in the cache.
    constexpr std::int64_t kRows = 16;
    for (std::int64_t row = 0; row < matrix.rows; row += kRows) {
      const std::int64_t end = std::min(row + kRows, matrix.rows);
      for (std::int64_t column = 0; column < count; ++column) {
        for (std::int64_t i = row; i < end; ++i)
          to[i * panel_columns_ + column] = from[i * matrix.row_stride + column * matrix.column_stride];
      }
    }
  }
  if (count == panel_columns_) return;
  for (std::int64_t row = 0; row < matrix.rows; ++row) {
    std::fill(to + row * panel_columns_ + count, to + (row + 1) * panel_columns_, 0.0F);
  }
}

void multiply(std::int64_t rows, const Left& a, const PackedMatrix& b, std::int64_t depth, const Result& c,
              const Addend& addend) {
  const std::int64_t width = b.panel_columns();
  for (std::int64_t k = 0; k < depth || k == 0; k += kDepthBlock) {
    const Left left{a.data + k * a.depth_stride, a.row_stride, a.depth_stride};
    for (std::int64_t panel = 0; panel < b.panels(); ++panel) {
      const std::int64_t first = panel * width;
      const Result result{c.data + first, c.stride};
      panel_product(rows, left, Panel{b.panel(panel) + k * width, std::min(width, b.columns() - first)},
                    std::min(kDepthBlock, depth - k), result,
                    k == 0 ? addend.from_column(first) : Addend{result.data, result.stride});
    }
  }
}

TESSERA_KERNEL(void, add_to_rows, (std::int64_t rows, std::int64_t columns, const float* row, float* values),
               (rows, columns, row, values))
TESSERA_KERNEL(void, add_rows,
               (std::int64_t rows, std::int64_t columns, const float* values, std::int64_t stride,
                float* sums),
               (rows, columns, values, stride, sums))

}  // namespace tessera::ops::cpu
