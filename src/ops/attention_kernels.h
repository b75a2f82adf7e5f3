#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <cstdint>
#include <vector>

/// What a device's kernel of ops/attention.h is made of (ops/kernels.h).

namespace tessera::ops {

/// Query [B, T, heads, D], key and value [B, S, heads, D]; or their gradients.
struct AttentionOperands {
  at::Tensor query, key, value;
};

/// Operands of one dtype. They may be slices of packed tensors: their last dimension is contiguous, and in a
/// 16-bit dtype their other strides are even, so that pairs may be read.
struct AttentionArguments {
  AttentionOperands operands;
  at::Tensor bias;  ///< undefined, or [1 or B, 1, 1 or T, S] float32, its last dimension contiguous
  bool is_causal = false;
};

struct AttentionForward {
  at::Tensor output;              ///< [B, T, heads, D] contiguous, the dtype of the operands
  std::vector<at::Tensor> saved;  ///< what the backward pass wants beside the arguments
};

/// softmax(QKᵀ/√D + bias) V
struct AttentionKernel {
  bool (*serves)(c10::ScalarType dtype, std::int64_t head_size, std::int64_t keys);
  AttentionForward (*forward)(const AttentionArguments& arguments);
  /// @param grad_output  lies as an operand does
  /// @param gradients    where those of the operands go, whatever they hold
  void (*backward)(const AttentionArguments& arguments, const std::vector<at::Tensor>& saved,
                   const at::Tensor& grad_output, const AttentionOperands& gradients);
};

}  // namespace tessera::ops
