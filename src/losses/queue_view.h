#pragma once

#include <ATen/core/Tensor.h>

namespace tessera::losses {

/// Queued pairs as the losses read them: every slot of the queue, and which of them count. Of slots that
/// don't count, the content has no effect at all.
struct QueueView {
  at::Tensor image;      ///< [Q, D]
  at::Tensor text;       ///< [Q, D]
  at::Tensor image_ids;  ///< [Q] int64
  at::Tensor usable;     ///< [Q] bool: filled and not stale
  at::Tensor filled;     ///< [Q] bool; undefined where every filled slot is usable (see filled_slots)

  /// What fused matching needs of a pair again; undefined in a queue without payload (QueuePayloadShape).
  at::Tensor image_tokens;  ///< [Q, image tokens, image width] bfloat16, as compressed at the entry's step
  at::Tensor token_ids;     ///< [Q, text tokens] int64, padded with 0 on the right

  /// [Q] bool: slots that hold a pair, however old.
  const at::Tensor& filled_slots() const { return filled.defined() ? filled : usable; }
  bool has_payload() const { return image_tokens.defined(); }
  /// Share of the slots that are usable, 0-dim float32.
  at::Tensor share_in_use() const;
};

}  // namespace tessera::losses
