#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "core/collectives.h"
#include "losses/loss_value.h"
#include "losses/losses_config.h"
#include "losses/queue_view.h"
#include "losses/temperature.h"

namespace tessera::losses {

struct ItcLossValue : LossValue {
  at::Tensor log_candidates;  ///< 0-dim: Σ over rows of ln(candidates of the row)

  /// Loss minus ln(candidates), 0-dim, without gradient: 0 for a model that tells nothing apart. A loss that
  /// falls to ln(batch) - ln(batch + queue) and stays says that old keys are told from new ones, and nothing
  /// else.
  at::Tensor excess() const;
};

/// Image-text contrastive loss with several positives: InfoNCE (van den Oord et al. 2018) in both directions,
/// as in CLIP and ALBEF (Li et al. 2021, eq. 1-2), targets uniform over the candidates of the same image.
///
/// Row i of image→text scores image i against every candidate text, the batch of all ranks and then the
/// usable queue entries: l_i = -mean over the candidates p with the row's id of log softmax_p(image_i ·
/// text_p / τ). The value is ½ (image→text + text→image), summed over this rank's rows. Other captions of a
/// row's image are thus never negatives: in the batch they are positives, in the queue positives or, with
/// SameId::kIgnore, no candidates.
///
/// Computed in float32 also under autocast and from bfloat16, in float64 from float64. No host
/// synchronisation.
///
/// @param image       [B, D] this rank's, L2-normalised by the caller; B >= 1, the same on every rank
/// @param text        [B, D] row i is a caption of image i
/// @param image_ids   [B] int64
/// @param temperature τ, 0-dim
/// @throws c10::Error where shapes or dtypes disagree
ItcLossValue itc_loss(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
                      const std::optional<QueueView>& queue, const at::Tensor& temperature, SameId same_id,
                      Collectives& collectives);

}  // namespace tessera::losses
