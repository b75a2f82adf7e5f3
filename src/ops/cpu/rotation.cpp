#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include "ops/cpu/kernels.h"
#include "ops/rotation_kernels.h"

namespace tessera::ops::cpu {
namespace {

/// Elements a task should hold, so that a short input isn't cut into pieces smaller than the cost of a
/// thread.
constexpr std::int64_t kGrain = 16384;

/// out = x turned by the angles, or by their negatives (the inverse, which is the transpose and so the
/// gradient).
template <typename Scalar>
void rotate_rows(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse,
                 at::Tensor& out) {
  const std::int64_t tokens = x.size(1);
  const std::int64_t heads = x.size(2);
  const std::int64_t half = x.size(3) / 2;
  const Scalar* x_data = x.const_data_ptr<Scalar>();
  const Scalar* cos_data = cos.const_data_ptr<Scalar>();
  const Scalar* sin_data = sin.const_data_ptr<Scalar>();
  Scalar* out_data = out.mutable_data_ptr<Scalar>();
  const Scalar sign = inverse ? Scalar(-1) : Scalar(1);
  const std::int64_t row_size = heads * half * 2;
  at::parallel_for(0, x.size(0) * tokens, kGrain / row_size + 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const Scalar* c = cos_data + (row % tokens) * half;
      const Scalar* s = sin_data + (row % tokens) * half;
      for (std::int64_t head = 0; head < heads; ++head) {
        const Scalar* first = x_data + row * row_size + head * half * 2;
        Scalar* result = out_data + row * row_size + head * half * 2;
        for (std::int64_t i = 0; i < half; ++i) {
          const Scalar turned = sign * s[i];
          result[i] = first[i] * c[i] - first[i + half] * turned;
          result[i + half] = first[i + half] * c[i] + first[i] * turned;
        }
      }
    }
  });
}

bool serves_rotation(c10::ScalarType dtype) { return dtype == at::kFloat || dtype == at::kDouble; }

at::Tensor rotated(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  at::Tensor out = at::empty_like(x);
  AT_DISPATCH_FLOATING_TYPES(x.scalar_type(), "rotate",
                             [&] { rotate_rows<scalar_t>(x, cos, sin, inverse, out); });
  return out;
}

}  // namespace

const RotationKernel kRotation{serves_rotation, rotated};

}  // namespace tessera::ops::cpu
