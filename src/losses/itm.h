#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "losses/hard_negatives.h"
#include "losses/loss_value.h"

namespace tessera::losses {

/// Right answers among the pairs of one kind, without gradient. Sum both before dividing.
struct Accuracy {
  at::Tensor correct;  ///< 0-dim float32
  at::Tensor count;    ///< 0-dim float32

  /// 0 where nothing was counted.
  at::Tensor mean() const { return correct / count.clamp_min(1); }
};

struct ItmLossValue : LossValue {
  Accuracy positive;
  Accuracy image_from_batch;  ///< text i with a negative image of the batch (of any rank)
  Accuracy image_from_queue;
  Accuracy text_from_batch;  ///< image i with a negative text of the batch
  Accuracy text_from_queue;
};

/// Image-text matching (ALBEF, Li et al. 2021, section 3.2; FIBER, Dou et al. 2022): cross-entropy of "does
/// this pair match" over 3B pairs, B that do, and each of their texts and images with its hard negative.
/// A pair whose negative is not valid doesn't count, and a matching pair without any valid negative neither:
/// there is nothing to tell it from. Nothing counted is a loss of 0.
///
/// @param logits           [3B, 2], column 1 for a match: rows i (image i, text i); B + i (negative image of
///                         text i, text i); 2B + i (image i, negative text of image i). Finite also where the
///                         negative is not valid: its index, 0, leads to an existing pair. Computed in
///                         float32, float64 from float64
/// @param batch_candidates N: negatives of a smaller index came from the batch, others from the queue
/// @throws c10::Error where shapes disagree
ItmLossValue itm_loss(const at::Tensor& logits, const HardNegatives& negatives,
                      std::int64_t batch_candidates);

}  // namespace tessera::losses
