#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "ops/cpu/matrix_kernel.h"

/// Products of float32 matrices on the CPU, for kernels that go on with a block of rows while it is in the
/// cache. What runs here runs on the calling thread; who calls shares rows among threads. Beside the library
/// behind at::mm this copies less (A is read where it lies) and writes a result once, with what is added
/// to it (measured, docs/results.md).

namespace tessera::ops::cpu {

/// A matrix somewhere: element (row, column) at data[row · row_stride + column · column_stride].
struct MatrixView {
  const float* data = nullptr;
  std::int64_t rows = 0, columns = 0;
  std::int64_t row_stride = 0, column_stride = 0;

  /// Of a contiguous [rows, columns] tensor.
  explicit MatrixView(const at::Tensor& matrix);
  MatrixView(const float* data, std::int64_t rows, std::int64_t columns, std::int64_t row_stride,
             std::int64_t column_stride)
      : data(data), rows(rows), columns(columns), row_stride(row_stride), column_stride(column_stride) {}

  MatrixView transposed() const { return {data, columns, rows, column_stride, row_stride}; }
};

/// B of A·B as the registers take it: panels of a few vectors' columns, each with its rows one after another;
/// the last one padded with zeros.
class PackedMatrix {
 public:
  /// Room for [depth, columns].
  PackedMatrix(std::int64_t depth, std::int64_t columns);
  /// Packed on all threads.
  explicit PackedMatrix(const MatrixView& matrix);

  std::int64_t depth() const { return depth_; }
  std::int64_t columns() const { return columns_; }
  std::int64_t panels() const { return panels_; }
  /// @return panel `index`, [depth, panel_columns()]
  const float* panel(std::int64_t index) const { return data_ + index * depth_ * panel_columns_; }
  std::int64_t panel_columns() const { return panel_columns_; }
  /// What a panel holds with the instruction set in use.
  static std::int64_t columns_of_panel();

  /// Takes over a matrix of at most `depth` rows, on this thread.
  void pack(const MatrixView& matrix);

 private:
  void pack_panel(const MatrixView& matrix, std::int64_t panel);

  std::int64_t depth_, columns_, panel_columns_, panels_;
  at::Tensor memory_;
  float* data_;
};

/// C [rows, b.columns()] = A·B + addend. `addend` may be C itself.
/// @param depth  of A's columns and B's rows, no more than b.depth()
void multiply(std::int64_t rows, const Left& a, const PackedMatrix& b, std::int64_t depth, const Result& c,
              const Addend& addend = {});

/// Adds a row of numbers to every row of `values` [rows, columns].
void add_to_rows(std::int64_t rows, std::int64_t columns, const float* row, float* values);

/// sums[column] += Σ_rows values[row · stride + column]
void add_rows(std::int64_t rows, std::int64_t columns, const float* values, std::int64_t stride, float* sums);

}  // namespace tessera::ops::cpu
