#include "fusion/match_scores.h"

#include <ATen/ATen.h>

#include <cmath>

namespace tessera::fusion {

at::Tensor match_scores(const at::Tensor& match_logits) {
  constexpr double kWrongToRightInTraining = 2;  // B right pairs, and B wrong ones by image and by text each
  return match_logits.select(-1, 1) - match_logits.select(-1, 0) + std::log(kWrongToRightInTraining);
}

}  // namespace tessera::fusion
