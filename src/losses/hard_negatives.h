#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <optional>

#include "core/collectives.h"
#include "losses/queue_view.h"

namespace tessera::losses {

/// How likely each candidate is to be drawn as a row's negative. Candidates are the batch of all ranks, N,
/// and then every slot of the queue, Q. Without gradient; float32, or float64 from float64.
struct NegativeWeights {
  at::Tensor text_weights;      ///< [B, N + Q] of image i's negative text; rows sum to 1, or are all 0
  at::Tensor image_weights;     ///< [B, N + Q] of text i's negative image
  at::Tensor text_similarity;   ///< [B, N + Q] image · candidate text, before the temperature
  at::Tensor image_similarity;  ///< [B, N + Q] text · candidate image
};

/// Weights of hard negatives (ALBEF, Li et al. 2021, section 3.2): softmax(similarity / τ) over the
/// candidates. Candidates of the row's own image are none (weight exactly 0); a row without candidates is all
/// 0. A queued text counts wherever a slot is filled, for it is encoded again with today's weights; a queued
/// image, which is used as it was encoded, only where the slot is usable.
///
/// @param image, text [B, D] this rank's, L2-normalised; the same B on every rank
/// @param image_ids   [B] int64
/// @param temperature τ, 0-dim
/// @param uniform_share u: weights become (1 − u) · softmax + u / candidates. A model that starts from
/// nothing tells random pairs apart long before the most similar ones, and learns nothing from these alone
/// (docs/results.md)
/// @throws c10::Error where shapes or dtypes disagree
NegativeWeights itm_weights(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                            const std::optional<QueueView>& queue, const at::Tensor& temperature,
                            Collectives& collectives, double uniform_share = 0);

/// One negative a row and direction.
struct HardNegatives {
  at::Tensor text_index;   ///< [B] int64 into N + Q: image i's negative text
  at::Tensor image_index;  ///< [B] int64 into N + Q: text i's negative image
  at::Tensor text_valid;   ///< [B] bool; false where the row had no candidate, and its index is 0
  at::Tensor image_valid;  ///< [B] bool
};

/// Draws from the weights as arg max(log weight + Gumbel noise), which is a draw from the multinomial
/// distribution (Gumbel 1954; Maddison et al. 2014) without a host synchronisation.
/// @param text_noise, image_noise [B, N + Q] (gumbel_noise), on the weights' device
HardNegatives draw_hard_negatives(const NegativeWeights& weights, const at::Tensor& text_noise,
                                  const at::Tensor& image_noise);

/// What the drawn negatives are: rows of all candidates, the batch's and behind them the queue's. Bit for bit
/// cat({batch, queued in the batch's dtype}).index_select(0, index), forward and backward, but only these
/// rows of the queue are read: its payload is many times what a step computes with, in memory and in time.
/// The host doesn't wait for the device.
/// @param batch  [N, …] of all ranks
/// @param queued [Q, …] without gradient; undefined where there is no queue
/// @param index  [B] int64 into N + Q
/// @return [B, …], the dtype of `batch`
/// @throws c10::Error where shapes disagree
at::Tensor candidate_rows(const at::Tensor& batch, const at::Tensor& queued, const at::Tensor& index);

/// Mean similarity of the drawn negatives, of both directions together, 0-dim; 0 where none is valid.
at::Tensor itm_negative_similarity(const NegativeWeights& weights, const HardNegatives& negatives);

enum class NegativeDirection : std::uint64_t { kText = 0, kImage = 1 };

struct NoiseShape {
  std::int64_t first_global_row = 0;  ///< of this rank's (and micro-batch's) rows among all of the step
  std::int64_t rows = 0;              ///< B
  std::int64_t columns = 0;           ///< N + Q
};

/// Standard Gumbel noise, -log(-log(u)), [rows, columns] float32. A row's noise is a function of (seed,
/// direction, step, global row) alone: one rank and eight draw the same. Made on the host, at some 10 ns a
/// number and thread.
at::Tensor gumbel_noise(std::uint64_t seed, NegativeDirection direction, std::int64_t step,
                        const NoiseShape& shape, c10::Device device);

}  // namespace tessera::losses
