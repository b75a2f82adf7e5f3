#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <vector>

#include "losses/maxsim.h"

namespace tessera::losses {

/// What a MaxSim kernel is made of: a forward pass that gives the scores and whatever tensors its own
/// backward pass wants, and that backward pass. Both run below autograd and autocast, on contiguous arguments
/// whose shapes have been checked. A kernel is added by a pair of functions here, a value of MaxSimKernel,
/// and its line in the choice of maxsim.cpp.

struct MaxSimForward {
  MaxSimScores scores;
  std::vector<at::Tensor> saved;
};

struct MaxSimGradients {
  at::Tensor patches;  ///< like the argument; undefined where it wasn't wanted
  at::Tensor tokens;   ///< likewise; 0 at padding
};

struct MaxSimBackwardArguments {
  at::Tensor image_to_text;  ///< [B_i, B_t] gradient of the scores
  at::Tensor text_to_image;  ///< [B_i, B_t]
  bool wants_patches = true;
  bool wants_tokens = true;
};

/// Tiles of one image's patches against some texts' real tokens, one GEMM a tile, in one loop of all threads;
/// both reductions read a tile once, while it is in the cache. float32 and float64.
MaxSimForward maxsim_cpu_forward(const at::Tensor& patches, const at::Tensor& tokens, const at::Tensor& mask);
MaxSimGradients maxsim_cpu_backward(const std::vector<at::Tensor>& saved,
                                    const MaxSimBackwardArguments& gradients);

/// ATen operations alone, without host synchronisation: chunks of images against all texts; the backward pass
/// puts a chunk's weights where the arg-max indices say (each place at most once a direction, so that the
/// order of additions is fixed) and multiplies. float32, float64 and bfloat16.
MaxSimForward maxsim_portable_forward(const at::Tensor& patches, const at::Tensor& tokens,
                                      const at::Tensor& mask);
MaxSimGradients maxsim_portable_backward(const std::vector<at::Tensor>& saved,
                                         const MaxSimBackwardArguments& gradients);

/// The smallest integer type that holds 0 … count - 1.
at::ScalarType index_dtype(std::int64_t count);

}  // namespace tessera::losses
