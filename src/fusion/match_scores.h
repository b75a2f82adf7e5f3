#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::fusion {

/// ITM's measure for ranking and for deciding: the log-odds of "match" where right and wrong pairs are
/// equally many. In training only one pair of three is right, which the logits know; ln 2 takes it back. [B,
/// 2] → [B]
at::Tensor match_scores(const at::Tensor& match_logits);

}  // namespace tessera::fusion
