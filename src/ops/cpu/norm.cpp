#include <ATen/ATen.h>

#include "ops/cpu/kernels.h"
#include "ops/cpu/norm_kernel.h"
#include "ops/cpu/row_blocks.h"
#include "ops/cpu/vectors.h"
#include "ops/norm_kernels.h"

namespace tessera::ops::cpu {
namespace {

/// Numbers in a row cost about as much as so many multiplications of a product.
constexpr std::int64_t kNormCost = 64;

NormStatistics* statistics_of(const at::Tensor& tensor) {
  return reinterpret_cast<NormStatistics*>(tensor.data_ptr<float>());
}

bool serves_rms_norm(c10::ScalarType dtype, std::int64_t width) {
  return dtype == at::kFloat && width == whole_vectors<float>(width);
}

RmsNormForward rms_norm_forward_pass(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const std::int64_t width = x.size(-1), rows = x.numel() / width;
  at::Tensor y = at::empty_like(x);
  const at::Tensor statistics = at::empty({rows, 2}, x.options());
  const Norm norm{width, weight.const_data_ptr<float>(), nullptr, eps, /*centred=*/false};
  const float* from = x.const_data_ptr<float>();
  float* to = y.mutable_data_ptr<float>();
  NormStatistics* of_rows = statistics_of(statistics);
  for_row_blocks(rows, row_parts(rows, width * kNormCost),
                 [&](std::int64_t, std::int64_t row, std::int64_t count) {
                   norm_rows(norm, count, from + row * width, to + row * width, of_rows + row);
                 });
  return {y, statistics};
}

RmsNormGradients rms_norm_backward_pass(const at::Tensor& grad, const at::Tensor& x, const at::Tensor& weight,
                                        double eps, const at::Tensor& statistics) {
  const std::int64_t width = x.size(-1), rows = x.numel() / width;
  const std::int64_t parts = row_parts(rows, width * kNormCost);
  at::Tensor grad_x = at::empty_like(x);
  at::Tensor grad_weight = at::zeros({parts, width}, x.options());
  const Norm norm{width, weight.const_data_ptr<float>(), nullptr, eps, /*centred=*/false};
  const float *dy = grad.const_data_ptr<float>(), *from = x.const_data_ptr<float>();
  float *dx = grad_x.mutable_data_ptr<float>(), *dw = grad_weight.mutable_data_ptr<float>();
  const NormStatistics* of_rows = statistics_of(statistics);
  for_row_blocks(rows, parts, [&](std::int64_t part, std::int64_t row, std::int64_t count) {
    norm_backward_rows(norm, count, dy + row * width, from + row * width, of_rows + row, nullptr,
                       {dx + row * width, dw + part * width, nullptr});
  });
  return {grad_x, grad_weight.sum(0)};
}

}  // namespace

const RmsNormKernel kRmsNorm{serves_rms_norm, rms_norm_forward_pass, rms_norm_backward_pass};

}  // namespace tessera::ops::cpu
