#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <utility>
#include <vector>

#include "losses/losses_config.h"

namespace tessera {
class Archive;
}

namespace tessera::losses {

/// What a key of some age is worth, in nats of logit: the scores of today's queries against keys encoded
/// `age` updates ago, minus those against the same keys encoded today.
struct AgeShift {
  std::int64_t age = 0;  ///< in updates of the weights
  double mean_i2t = 0;   ///< image queries, text keys
  double rms_i2t = 0;    ///< root of the mean square, not centred: at least |mean|
  double mean_t2i = 0;   ///< text queries, image keys
  double rms_t2i = 0;

  /// All four within ±limit; a shift that is not a number is not.
  bool within(double limit) const;
  bool operator==(const AgeShift&) const = default;
};

/// Shifts of the embeddings of the same N pairs, encoded at A earlier times.
///
/// shift_ij(a) = query_i · (key_j(a) - key_j(now)) / τ over i ≠ j. Pairs of a query and its own key are left
/// out: a queue serves as a source of negatives, and what tells old negatives from new ones is how *negative*
/// scores moved. The scores of matching pairs move because the model learns to match, which is no staleness,
/// and there are so few of them among N² that they would only blur the figure. Where nothing moved, every
/// shift is exactly 0.
///
/// @param image_now  [N, D] today's embeddings, N >= 2
/// @param image_then [A, N, D] those of the A earlier times
/// @param ages       [A] updates since each
/// @param temperature τ of today, 0-dim
/// @return one entry a time, in the order given; read from the device in one copy
std::vector<AgeShift> shift_by_age(const at::Tensor& image_now, const at::Tensor& text_now,
                                   const at::Tensor& image_then, const at::Tensor& text_then,
                                   const std::vector<std::int64_t>& ages, const at::Tensor& temperature);

struct StalenessOptions {
  /// Its max_shift of 0 switches the rule off: every age is allowed, shifts are still measured. probe_every
  /// is the most; see StalenessProbe::interval.
  QueueConfig queue;
  std::int64_t global_batch = 0;   ///< pairs that enter the queue a step, of all ranks
  c10::Device device = c10::kCPU;  ///< where allowed_age lies
};

/// The rule that keeps stale keys out of the ITC queue's view.
///
/// Queued keys are older than the positive. Where features move fast, "old or new" is easier to learn than
/// "match or not": the loss falls and the model is destroyed. So a fixed set of pairs is encoded again and
/// again, the embeddings are kept with their step for as long as a queue entry can live, and the age up to
/// which keys may be used follows from how far their scores have shifted. The probe needs no queue and no
/// gradient, and works while the queue is shut.
///
/// An age is allowed when every probed age up to it, and itself, is within the limit. Between two probed
/// ages, the lower one counts: nothing is assumed about an age that was not measured. It follows that nothing
/// is allowed before the second probe. Hysteresis: the allowed age grows only as far as shifts stay within
/// opening_fraction of max_shift, and shrinks only to where they leave max_shift itself, so that noise around
/// the limit doesn't make the queue flap.
///
/// An age is a number of updates of the weights between two encodings; embeddings are to be stamped alike
/// here and in ItcQueue. Encode the probe in evaluation mode: dropout makes every key noisy, old or new, and
/// is no drift.
class StalenessProbe {
 public:
  /// Encodes the probe's pairs with today's weights, in evaluation mode: image and text embeddings [N, D], N
  /// >= 2, L2-normalised; the pairs show N different images, and are the same at every call. Runs without
  /// gradients.
  using Encode = std::function<std::pair<at::Tensor, at::Tensor>()>;

  static constexpr double kOpeningFraction = 0.8;

  StalenessProbe(const StalenessOptions& options, Encode encode);

  /// Steps between probes: probe_every, or less where the queue turns over so fast that this would put fewer
  /// than four probed ages into an entry's life.
  std::int64_t interval() const;
  /// Steps after which every entry of a queue has been replaced.
  std::int64_t queue_lifetime() const;

  bool due(std::int64_t step) const;
  /// Probes where it is due; returns whether it did.
  bool update(std::int64_t step, const at::Tensor& temperature);
  /// Encodes the probe, measures the shift at every kept age and sets the allowed age. The host waits for the
  /// device here, once.
  /// @throws Error where the probe has fewer than two pairs, or others than those of a loaded state
  void measure(std::int64_t step, const at::Tensor& temperature);

  /// 0-dim int64 on the device, for ItcQueue::view: the greatest age that may be used; 0 for none.
  const at::Tensor& allowed_age() const { return allowed_on_device_; }
  std::int64_t allowed_age_on_host() const { return allowed_; }
  /// The last measurement, youngest age first.
  const std::vector<AgeShift>& shifts() const { return shifts_; }

  /// "queue_age_allowed" (steps, at most the queue's lifetime) and "queue_shift_by_age" (one object an age).
  nlohmann::json metrics() const;

  /// Under names that begin with "itc_staleness".
  void save(Archive& archive) const;
  /// @throws Error naming file and tensor or key where the state is absent or damaged
  void load(const Archive& archive);

 private:
  struct Snapshot {
    std::int64_t step;
    at::Tensor image;  ///< [N, D]
    at::Tensor text;   ///< [N, D]
  };

  std::vector<AgeShift> measure_against_history(const Snapshot& now, const at::Tensor& temperature) const;
  void remember(Snapshot now);
  void set_allowed(std::int64_t age);
  /// The greatest age up to which all measured shifts are within the limit.
  std::int64_t greatest_age_within(double limit) const;

  StalenessOptions options_;
  Encode encode_;
  std::deque<Snapshot> history_;  ///< oldest first; at most one is as old as the queue's lifetime
  std::vector<AgeShift> shifts_;
  std::int64_t allowed_ = 0;
  at::Tensor allowed_on_device_;
};

}  // namespace tessera::losses
