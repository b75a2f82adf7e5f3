#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::memory {

/// Solves with the Gram matrix of wide, full-row-rank matrices, kept definite by a ridge relative to the mean
/// of its diagonal: G = A Aᵀ + ridge · mean(diag A Aᵀ) · I. In float64, differentiable, batched, and without
/// any synchronisation with the device: a matrix that is not finite gives results that are not finite.
///
/// Repeated rows are no error: the ridge shares a solution evenly between them.
class GramSolver {
 public:
  /// @param rows  [..., R, D] float64, R <= D
  GramSolver(const at::Tensor& rows, double ridge);

  /// G⁻¹ B. @param right [..., R, X], batch dimensions those of the rows or one set of rows for all of them
  at::Tensor solve(const at::Tensor& right) const;
  /// G⁻¹, [..., R, R].
  at::Tensor inverse() const;

 private:
  at::Tensor factor_;
};

}  // namespace tessera::memory
