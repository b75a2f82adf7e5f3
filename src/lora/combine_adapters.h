#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lora/peft_files.h"

namespace tessera::lora {

/// How several adapters become one, with PEFT's names and formulas (add_weighted_adapter).
enum class AdapterCombination {
  kLinear,  ///< A = Σ ±√|w·s|·A_i, B = Σ √|w·s|·B_i: a rough mean, for adapters of one rank
  kCat,     ///< exactly Σ w·ΔW_i, by stacking; the ranks add up
  kSvd,     ///< the best approximation of Σ w·ΔW_i of a given rank
};

struct WeightedAdapter {
  AdapterFiles files;  ///< in any naming, with a wrapper's prefix or without
  double weight = 1;
};

/// Files of a new adapter that adds what several add together, in the current naming, each module by its
/// whole path. Needs no model: what the modules are is in the files.
/// @param rank  of kSvd; 0: the greatest of theirs
/// @throws Error naming the adapter that can't be combined (of another architecture than the first; DoRA,
/// biases, modules_to_save or base weights of its
///         own; numbers that are not finite), or the module whose size or (kLinear) ranks differ
AdapterFiles combine_adapters(const std::vector<WeightedAdapter>& adapters, AdapterCombination combination,
                              std::int64_t rank = 0);

}  // namespace tessera::lora
