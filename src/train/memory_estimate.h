#pragma once

namespace tessera {
struct Compute;
struct Config;
}  // namespace tessera
namespace tessera::model {
class Stage1Model;
}

namespace tessera::train {

/// What a rank holds at the peak of a training step, in bytes.
struct MemoryEstimate {
  double program = 0;  ///< with its libraries, before there is a model; on the CPU alone
  double weights = 0;  ///< in float32, and under autocast the frozen encoder's in bfloat16 beside them
  double moments = 0;  ///< AdamW's two
  double queue = 0;
  double batches = 0;  ///< pixels of the batches that the data pipeline holds
  double activations =
      0;                 ///< of all passes of a step at their most, and what differentiating them begins with
  double gradients = 0;  ///< of what trains
  double last_activations = 0;  ///< those that are left when the last gradients are computed

  /// Activations make room for gradients as these come.
  double step() const {
    return activations > gradients + last_activations ? activations : gradients + last_activations;
  }
  double total() const { return program + weights + moments + queue + batches + step(); }
};

/// Estimates a step of the model as it is: what has no gradient now keeps none. A loss of weight 0 has no
/// pass. Follows precision, gradient checkpointing and where our kernels run. Captions count as
/// language.max_tokens long. Scratch space of single operations and what the allocator leaves between pieces
/// are not in it: docs/results.md has measured peaks beside it.
/// @param compute  where it runs, and in which precision
MemoryEstimate estimate_memory(const Config& config, const model::Stage1Model& model, const Compute& compute);

}  // namespace tessera::train
