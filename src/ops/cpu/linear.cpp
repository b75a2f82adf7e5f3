#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <vector>

#include "ops/cpu/kernels.h"
#include "ops/cpu/matrix_product.h"
#include "ops/cpu/row_blocks.h"
#include "ops/linear_kernels.h"

namespace tessera::ops::cpu {
namespace {

/// For fewer rows packing the weights costs more than it gains.
constexpr std::int64_t kFewestRows = 64;

bool serves_linear(c10::ScalarType dtype, std::int64_t rows) {
  return dtype == at::kFloat && rows >= kFewestRows;
}

/// y [rows, b.columns()] = x · b + addend on all threads; `addend` one row for all, or null.
void multiply_rows_by(const at::Tensor& x, const PackedMatrix& b, const float* addend, at::Tensor& y) {
  const std::int64_t depth = b.depth(), columns = b.columns();
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  const std::int64_t rows = x.numel() / depth;
  for_row_blocks(rows, row_parts(rows, depth * columns),
                 [&](std::int64_t, std::int64_t row, std::int64_t count) {
                   multiply(count, Left{from + row * depth, depth, 1}, b, depth,
                            Result{to + row * columns, columns}, Addend{addend, 0});
                 });
}

/// Σ_rows grad ⊗ x, and Σ_rows grad.
struct WeightGradient {
  const float *grad, *x;
  std::int64_t rows, out, in;
  float* weight;  ///< [out, in]
  float* bias;    ///< [out], zeros; or null

  /// Output features that are computed together.
  static constexpr std::int64_t kChunk = 48;
  /// Rows of x that are packed together.
  static constexpr std::int64_t kRows = 192;

  /// Threads share pieces of the result, so that it doesn't depend on how many they are.
  void compute() const {
    const std::int64_t width = PackedMatrix::columns_of_panel();
    const std::int64_t panels = (in + width - 1) / width;
    const std::int64_t chunks = (out + kChunk - 1) / kChunk;
    const std::int64_t cost = rows * width * kChunk;
    at::parallel_for(0, panels * chunks, kProductGrain / cost + 1, [&](std::int64_t begin, std::int64_t end) {
      while (begin < end) {
        const std::int64_t panel = begin / chunks;
        const std::int64_t next = std::min(end, (panel + 1) * chunks);
        const std::int64_t first = panel * width;
        piece(first, std::min(width, in - first), (begin - panel * chunks) * kChunk,
              std::min(out, (next - panel * chunks) * kChunk));
        begin = next;
      }
    });
  }

 private:
  /// Columns first_in … first_in + columns of the output features first_out … end_out.
  void piece(std::int64_t first_in, std::int64_t columns, std::int64_t first_out,
             std::int64_t end_out) const {
    PackedMatrix packed(kRows, columns);
    float* to = weight + first_out * in + first_in;
    for (std::int64_t row = 0; row < rows; row += kRows) {
      const std::int64_t count = std::min(kRows, rows - row);
      packed.pack(MatrixView(x + row * in + first_in, count, columns, in, 1));
      const float* gradients = grad + row * out + first_out;
      multiply(end_out - first_out, Left{gradients, 1, out}, packed, count, Result{to, in},
               row == 0 ? Addend{} : Addend{to, in});
      if (bias != nullptr && first_in == 0)
        add_rows(count, end_out - first_out, gradients, out, bias + first_out);
    }
  }
};

/// Room for a product with `columns` features.
at::Tensor empty_product(const at::Tensor& like, std::int64_t columns) {
  std::vector<std::int64_t> shape = like.sizes().vec();
  shape.back() = columns;
  return at::empty(shape, like.options());
}

at::Tensor linear_forward_pass(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  at::Tensor y = empty_product(x, weight.size(0));
  multiply_rows_by(x, PackedMatrix(MatrixView(weight).transposed()),
                   bias.defined() ? bias.const_data_ptr<float>() : nullptr, y);
  return y;
}

LinearGradients linear_backward_pass(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                     const WantedOfLinear& wanted) {
  const std::int64_t out = weight.size(0), in = weight.size(1), rows = grad.numel() / out;
  LinearGradients gradients;
  if (wanted.x) {
    gradients.x = empty_product(grad, in);
    multiply_rows_by(grad, PackedMatrix(MatrixView(weight)), nullptr, gradients.x);
  }
  if (wanted.weight) {
    gradients.weight = at::empty_like(weight);
    if (wanted.bias) gradients.bias = at::zeros({out}, weight.options());
    WeightGradient{grad.const_data_ptr<float>(),
                   x.const_data_ptr<float>(),
                   rows,
                   out,
                   in,
                   gradients.weight.mutable_data_ptr<float>(),
                   wanted.bias ? gradients.bias.mutable_data_ptr<float>() : nullptr}
        .compute();
  }
  return gradients;
}

}  // namespace

const LinearKernel kLinear{serves_linear, linear_forward_pass, linear_backward_pass};

}  // namespace tessera::ops::cpu
