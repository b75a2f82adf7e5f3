#include "memory/running_moments.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

namespace tessera::memory {

namespace {

constexpr double kVarianceFloor = 1e-5;
constexpr double kSmallestRate = 0.01;

}  // namespace

RunningMomentsImpl::RunningMomentsImpl(std::int64_t channels) {
  mean = register_parameter("mean", at::zeros({channels}), /*requires_grad=*/false);
  variance = register_parameter("variance", at::ones({channels}), /*requires_grad=*/false);
  batches = register_parameter("batches", at::zeros({}), /*requires_grad=*/false);
}

at::Tensor RunningMomentsImpl::standardise(const at::Tensor& rows) {
  return (rows.to(mean.scalar_type()) - mean) * (variance + kVarianceFloor).rsqrt();
}

void RunningMomentsImpl::observe(const at::Tensor& rows) {
  const c10::NoGradGuard no_grad;
  TORCH_CHECK(rows.dim() == 2 && rows.size(1) == mean.size(0), "moments: rows [B, ", mean.size(0),
              "] expected, got ", rows.sizes());
  const at::Tensor values = rows.to(mean.scalar_type());
  const at::Tensor found = values.mean(0);
  batches.add_(1);
  const at::Tensor rate = batches.reciprocal().clamp_min(kSmallestRate);
  const at::Tensor moved = found - mean;
  // About the new mean, which has moved only in part.
  const at::Tensor spread = (values - found).square().mean(0) + (1 - rate) * moved.square();
  variance.add_(rate * (spread - variance));
  mean.add_(rate * moved);
}

}  // namespace tessera::memory
