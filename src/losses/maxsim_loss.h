#pragma once

#include <ATen/core/Tensor.h>

#include "core/collectives.h"
#include "losses/loss_value.h"

namespace tessera::losses {

/// Contrastive loss over late-interaction scores (FILIP, Yao et al. 2021, section 3.1): ½ (the mean over
/// images of the cross-entropy of a row of image_to_text / τ + the mean over texts of that of a column of
/// text_to_image / τ), targets uniform over the entries of the same id. This rank's images are scored against
/// the texts of all ranks, and its texts against all images.
///
/// Counted are images: the sum holds the texts' part scaled to their number, so that sum / count is the value
/// above where B_i and B_t differ, and so over ranks and micro-batches of the same sizes. A row or column
/// without an entry of its id adds 0.
///
/// @param patches     [B_i, P, D] L2-normalised by the caller, the same shape on every rank
/// @param tokens      [B_t, T, D] likewise (pad T to a common length where ranks differ)
/// @param mask        [B_t, T] bool, true for real tokens
/// @param image_ids   [B_i] int64
/// @param text_ids    [B_t] int64: id of the image that a text describes
/// @param temperature τ, 0-dim
/// @throws c10::Error where shapes or dtypes disagree
LossValue maxsim_loss(const at::Tensor& patches, const at::Tensor& tokens, const at::Tensor& mask,
                      const at::Tensor& image_ids, const at::Tensor& text_ids, const at::Tensor& temperature,
                      Collectives& collectives);

}  // namespace tessera::losses
