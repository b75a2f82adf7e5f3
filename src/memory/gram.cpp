#include "memory/gram.h"

#include <ATen/ATen.h>

namespace tessera::memory {

GramSolver::GramSolver(const at::Tensor& rows, double ridge) {
  TORCH_CHECK(rows.scalar_type() == at::kDouble && rows.dim() >= 2 && rows.size(-2) <= rows.size(-1),
              "GramSolver: rows [..., R, D >= R] in float64 expected, got ", rows.sizes(), " ",
              rows.scalar_type());
  const at::Tensor gram = rows.matmul(rows.mT());
  // Rows that are all zero leave nothing to be relative to.
  const at::Tensor mean_square = gram.detach().diagonal(0, -2, -1).mean(-1).clamp_min(1e-30);
  const at::Tensor identity = at::eye(rows.size(-2), rows.options().requires_grad(false));
  const at::Tensor regular = gram + identity * (ridge * mean_square).unsqueeze(-1).unsqueeze(-1);
  // The check of linalg_cholesky would wait for the device.
  factor_ = std::get<0>(at::linalg_cholesky_ex(regular, /*upper=*/false, /*check_errors=*/false));
}

at::Tensor GramSolver::solve(const at::Tensor& right) const { return at::cholesky_solve(right, factor_); }

at::Tensor GramSolver::inverse() const {
  return solve(at::eye(factor_.size(-1), factor_.options().requires_grad(false)).expand_as(factor_));
}

}  // namespace tessera::memory
