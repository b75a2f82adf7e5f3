#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/archive.h"
#include "core/collectives.h"
#include "losses/itc.h"

namespace tessera::losses {

/// The embeddings of recent pairs, as further candidates of ITC: a ring buffer on the device in which a new
/// entry takes the place of the oldest. Every entry carries its image's id and the step at which it was
/// encoded. On several ranks each holds the same queue, filled from the gathered batch.
class ItcQueue {
 public:
  /// @param size  number of slots, Q >= 1
  /// @param width of the embeddings, D
  ItcQueue(std::int64_t size, std::int64_t width, c10::Device device);

  /// Takes detached float32 copies of the pairs of all ranks. Any number of pairs: it needn't divide the
  /// size, and of more than the size the last ones stay.
  /// @param image     [N, D]
  /// @param text      [N, D]
  /// @param image_ids [N] int64
  /// @param step      updates that the weights had seen when they encoded the pairs, >= 0
  void enqueue(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
               std::int64_t step);
  /// The same from this rank's pairs, which are gathered first.
  void enqueue(const at::Tensor& image, const at::Tensor& text, const at::Tensor& image_ids,
               std::int64_t step, Collectives& collectives);

  /// The queue as ITC reads it at `current_step`: usable are the filled slots whose age, the updates between
  /// encoding and now, is at most `age_allowed`. Shares the queue's memory; itc_loss copies what it keeps.
  /// @param age_allowed 0-dim int64 (StalenessProbe::allowed_age)
  QueueView view(std::int64_t current_step, const at::Tensor& age_allowed) const;

  std::int64_t size() const { return image_.size(0); }
  std::int64_t filled() const { return filled_; }

  /// Under names that begin with "itc_queue".
  void save(Archive& archive) const;
  /// @throws Error naming file and tensor or key where the state is absent, damaged or of another size
  void load(const Archive& archive);

 private:
  /// Every column of the ring, with its name in archives.
  std::vector<std::pair<std::string, at::Tensor>> columns() const;
  /// Writes one value a slot to each column, in the order of columns(), from slot `next_` on.
  void write(const std::vector<at::Tensor>& entries);

  at::Tensor image_;      ///< [Q, D]
  at::Tensor text_;       ///< [Q, D]
  at::Tensor image_ids_;  ///< [Q], -1 in empty slots
  at::Tensor step_;       ///< [Q], -1 in empty slots
  std::int64_t next_ = 0;
  std::int64_t filled_ = 0;
};

}  // namespace tessera::losses
