#pragma once

#include "objectives/kept_activations.h"

namespace tessera {
struct Config;
}

namespace tessera::objectives {

/// What an objective can tell its memory by.
struct PassMemory {
  const Config& config;
  const KeptActivations& passes;
  bool has_queue = false;  ///< negatives come from past batches too
  /// Numbers in the matrices that train: of the fusion's parts, of the language model's layers, of these its
  /// fused ones, of its embedding, and of all other parts.
  double fusion = 0, language = 0, upper_language = 0, embedding = 0, others = 0;

  /// In autocast's copies of weights that a decoding pass makes.
  double decoder_casts() const { return fusion / 2 + upper_language + embedding; }
};

/// What one objective takes beside the passes that all share.
struct ObjectiveMemory {
  double kept = 0;          ///< bytes a pair for the backward pass
  double backward = 0;      ///< bytes a pair that it takes at its beginning, when all that was kept is there
  double cast_weights = 0;  ///< numbers in autocast's copies of weights that its pass makes
};

}  // namespace tessera::objectives
