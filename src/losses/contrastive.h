#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "losses/queue_view.h"

namespace tessera::losses {

/// What the contrastive losses share.

/// float64 stays; everything else becomes float32.
at::Tensor in_full_precision(const at::Tensor& tensor);

/// @throws c10::Error naming `caller` where image and text are not [B >= 1, D] alike, image_ids [B] int64 and
/// the temperature 0-dim
void check_batch(const char* caller, const at::Tensor& image, const at::Tensor& text,
                 const at::Tensor& image_ids, const at::Tensor& temperature);

/// @param width of the batch's embeddings
/// @throws c10::Error naming `caller` where shapes or dtypes are wrong
void check_queue(const char* caller, const QueueView& queue, std::int64_t width);

/// Batch and queue below one another, [N + Q, D] in the batch's dtype. A slot that doesn't count may hold
/// anything; zeroed here, not even an infinity in it reaches a score or, as 0 · inf, a gradient. The copy
/// also lets the queue be overwritten before the backward pass.
/// @param counts [Q] bool
at::Tensor with_queued(const at::Tensor& batch, const at::Tensor& queued, const at::Tensor& counts);

/// Σ over rows of the cross-entropy with targets uniform over the row's positives, 0-dim. A row without a
/// positive adds nothing.
/// @param logits   [R, C]; -inf for what is no candidate, which must not be positive
/// @param positive [R, C] bool
at::Tensor cross_entropy_sum(const at::Tensor& logits, const at::Tensor& positive);

}  // namespace tessera::losses
