#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/collectives.h"
#include "losses/queue_view.h"

namespace tessera {
class Archive;
}

namespace tessera::losses {

/// Sizes of what a queued pair keeps for fused matching besides its embeddings. All 0: nothing.
struct QueuePayloadShape {
  std::int64_t image_tokens = 0;  ///< compressed tokens of an image, [CLS] included
  std::int64_t image_width = 0;   ///< width of each
  std::int64_t text_tokens = 0;   ///< token ids of a text, at most; shorter ones are padded with 0

  bool empty() const { return image_tokens == 0 && image_width == 0 && text_tokens == 0; }
};

/// Pairs to be queued.
struct QueueEntries {
  at::Tensor image;         ///< [N, D]
  at::Tensor text;          ///< [N, D]
  at::Tensor image_ids;     ///< [N] int64
  at::Tensor image_tokens;  ///< [N, image tokens, image width]; undefined for a queue without payload
  at::Tensor token_ids;     ///< [N, at most text tokens] int64, padded with 0 on the right; likewise
};

/// The embeddings of recent pairs, as further candidates of ITC and ITM: a ring buffer on the device in which
/// a new entry takes the place of the oldest. Every entry carries its image's id and the step at which it was
/// encoded, and for ITM, where the queue was made with a payload, the compressed image in bfloat16 and the
/// token ids of the text. On several ranks each holds the same queue, filled from the gathered batch.
class ItcQueue {
 public:
  /// @param size  number of slots, Q >= 1
  /// @param width of the embeddings, D
  /// @param payload all sizes positive, or empty
  ItcQueue(std::int64_t size, std::int64_t width, c10::Device device, const QueuePayloadShape& payload = {});

  /// Takes detached copies of the pairs of all ranks, embeddings in float32, image tokens in bfloat16. Any
  /// number of pairs: it needn't divide the size, and of more than the size the last ones stay.
  /// @param step updates that the weights had seen when they encoded the pairs, >= 0
  /// @throws c10::Error where shapes or dtypes are wrong, or the payload is absent or not expected
  void enqueue(const QueueEntries& entries, std::int64_t step);
  /// The same from this rank's pairs, which are gathered first.
  void enqueue(const QueueEntries& entries, std::int64_t step, Collectives& collectives);
  /// The same for a queue without payload.
  void enqueue(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
               std::int64_t step);
  void enqueue(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
               std::int64_t step, Collectives& collectives);

  /// The queue as the losses read it at `current_step`: usable are the filled slots whose age, the updates
  /// between encoding and now, is at most `age_allowed`. Shares the queue's memory; the losses copy what they
  /// keep.
  /// @param age_allowed 0-dim int64 (StalenessProbe::allowed_age)
  QueueView view(std::int64_t current_step, const at::Tensor& age_allowed) const;

  std::int64_t size() const { return image_.size(0); }
  std::int64_t filled() const { return filled_; }
  bool has_payload() const { return image_tokens_.defined(); }

  /// Under names that begin with "itc_queue".
  void save(Archive& archive) const;
  /// @throws Error naming file and tensor or key where the state is absent, damaged or of another size
  void load(const Archive& archive);

 private:
  /// Every column of the ring, with its name in archives.
  std::vector<std::pair<std::string, at::Tensor>> columns() const;
  void check(const QueueEntries& entries) const;
  /// In the dtypes and widths of the columns, detached.
  QueueEntries prepared(const QueueEntries& entries) const;
  /// Writes one value a slot to each column, in the order of columns(), from slot `next_` on.
  void write(const std::vector<at::Tensor>& entries);

  at::Tensor image_;         ///< [Q, D]
  at::Tensor text_;          ///< [Q, D]
  at::Tensor image_ids_;     ///< [Q], -1 in empty slots
  at::Tensor step_;          ///< [Q], -1 in empty slots
  at::Tensor image_tokens_;  ///< [Q, image tokens, image width] bfloat16; undefined without payload
  at::Tensor token_ids_;     ///< [Q, text tokens]; undefined without payload
  std::int64_t next_ = 0;
  std::int64_t filled_ = 0;
};

}  // namespace tessera::losses
