#include "ops/linear.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>

#include "ops/matrix_product.h"
#include "ops/row_blocks.h"

namespace tessera::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// For fewer rows packing the weights costs more than it gains.
constexpr std::int64_t kFewestRows = 64;

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

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& input, const at::Tensor& weight_input,
                            const std::optional<at::Tensor>& bias) {
    const at::Tensor x = input.contiguous(), weight = weight_input.contiguous();
    std::vector<std::int64_t> shape = x.sizes().vec();
    shape.back() = weight.size(0);
    at::Tensor y = at::empty(shape, x.options());
    const at::Tensor addend = bias ? bias->contiguous() : at::Tensor();
    multiply_rows_by(x, PackedMatrix(MatrixView(weight).transposed()),
                     addend.defined() ? addend.const_data_ptr<float>() : nullptr, y);
    const bool trains = weight_input.requires_grad() || (bias && bias->requires_grad());
    context->saved_data["wants_x"] = input.requires_grad();
    context->saved_data["trains"] = trains;
    context->saved_data["has_bias"] = bias.has_value();
    context->save_for_backward({trains ? x : at::Tensor(), weight});
    return y;
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "linear is differentiable once only");
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const at::Tensor grad = grads[0].contiguous();
    const std::int64_t out = weight.size(0), in = weight.size(1), rows = grad.numel() / out;
    at::Tensor grad_x, grad_weight, grad_bias;
    if (context->saved_data["wants_x"].toBool()) {
      std::vector<std::int64_t> shape = grad.sizes().vec();
      shape.back() = in;
      grad_x = at::empty(shape, grad.options());
      multiply_rows_by(grad, PackedMatrix(MatrixView(weight)), nullptr, grad_x);
    }
    if (context->saved_data["trains"].toBool()) {
      grad_weight = at::empty_like(weight);
      if (context->saved_data["has_bias"].toBool()) grad_bias = at::zeros({out}, weight.options());
      WeightGradient{grad.const_data_ptr<float>(),
                     x.const_data_ptr<float>(),
                     rows,
                     out,
                     in,
                     grad_weight.mutable_data_ptr<float>(),
                     grad_bias.defined() ? grad_bias.mutable_data_ptr<float>() : nullptr}
          .compute();
    }
    return {grad_x, grad_weight, grad_bias};
  }
};

}  // namespace

bool in_full_precision_on_cpu(const at::Tensor& x) {
  return x.is_cpu() && x.scalar_type() == at::kFloat && !at::autocast::is_autocast_enabled(at::kCPU);
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const bool ours = in_full_precision_on_cpu(x) && weight.scalar_type() == at::kFloat && weight.dim() == 2 &&
                    x.dim() >= 2 && x.size(-1) == weight.size(1) &&
                    x.numel() >= kFewestRows * weight.size(1) && weight.numel() > 0;
  if (!ours) return at::linear(x, weight, bias);
  return LinearFunction::apply(x, weight, bias.defined() ? std::optional(bias) : std::nullopt);
}

}  // namespace tessera::ops
