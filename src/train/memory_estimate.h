#pragma once

#include "core/config.h"
#include "core/device.h"
#include "model/stage1_model.h"

namespace tessera::train {

/// What a rank holds at the peak of a training step, in bytes. What the program, its libraries, the data
/// pipeline and the scratch space of single operations take is not in it.
struct MemoryEstimate {
  double weights = 0;
  double gradients = 0;
  double moments = 0;      ///< AdamW's two
  double activations = 0;  ///< kept for the backward pass by all passes of a step
  double queue = 0;

  double total() const { return weights + gradients + moments + activations + queue; }
};

/// Estimates a step of the model as it is: what has no gradient now keeps none. A loss of weight 0 has no
/// pass. Captions count as language.max_tokens long and everything as float32, so that shorter captions or
/// bfloat16 need less.
/// @param compute  where it runs: on the CPU in float32 feed-forward networks keep less
MemoryEstimate estimate_memory(const Config& config, const model::Stage1Model& model, const Compute& compute);

}  // namespace tessera::train
