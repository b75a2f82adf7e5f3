#pragma once

#include "ops/kernels.h"

/// The kernels that are written for CPUs, each defined in the .cpp file of its op's name.

namespace tessera::ops::cpu {

/// Over at most 512 keys, for heads of whole vectors: float32, and bfloat16 where the processor multiplies it
/// (AVX512-BF16).
extern const AttentionKernel kAttention;
/// float32, by a hash of seed and place.
extern const DropoutKernel kDropout;
/// float32, widths of whole vectors, weights that are small enough for the second-level cache: a thread takes
/// a block of rows through all of it before it takes the next, so that what lies between is never written to
/// memory but for the up (and gate) projection, and gathers the weights' gradients on the way.
extern const FeedForwardKernel kFeedForward;
/// float32, many rows: our own matrix product.
extern const LinearKernel kLinear;
/// float32, rows of whole vectors, one pass each way. LibTorch composes it from ten operations and takes
/// several times as long as its own layer_norm.
extern const RmsNormKernel kRmsNorm;
/// float32 and float64, one pass.
extern const RotationKernel kRotation;
/// float32, one pass each way.
extern const SwigluKernel kSwiglu;

}  // namespace tessera::ops::cpu
