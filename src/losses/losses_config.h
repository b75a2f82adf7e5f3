#pragma once

#include <cstdint>

namespace tessera {
struct ConfigRows;
}

namespace tessera::losses {

enum class SameId { kIgnore, kPositive };

struct QueueConfig {
  std::int64_t size = 4096;  ///< 0: no queue
  SameId same_id = SameId::kIgnore;
  double max_shift = 0.1;  ///< nats; 0 switches the staleness rule off
  std::int64_t probe_pairs = 32;
  std::int64_t probe_every = 25;  ///< steps

  bool operator==(const QueueConfig&) const = default;
};

struct ItcConfig {
  double weight = 1.0;
  std::int64_t from_epoch = 1;  ///< the first in which it is trained, counted from 1; of each loss
  double temperature = 0.07;
  double temperature_min = 0.01;
  QueueConfig queue;

  bool operator==(const ItcConfig&) const = default;
};

/// Off unless it is given a weight.
struct SiglipConfig {
  double weight = 0.0;
  std::int64_t from_epoch = 1;
  double temperature = 0.1;
  double temperature_min = 0.01;
  double bias = -10.0;

  bool operator==(const SiglipConfig&) const = default;
};

struct ItmConfig {
  double weight = 1.0;
  std::int64_t from_epoch = 1;
  double uniform_share = 0.0;  ///< of the negatives' draws that disregard similarity

  bool operator==(const ItmConfig&) const = default;
};

struct MaxSimConfig {
  double weight = 1.0;
  std::int64_t from_epoch = 1;
  double temperature = 0.07;
  double temperature_min = 0.01;

  bool operator==(const MaxSimConfig&) const = default;
};

struct CaptionConfig {
  double weight = 1.0;
  std::int64_t from_epoch = 1;

  bool operator==(const CaptionConfig&) const = default;
};

struct MemoryLossConfig {
  double weight = 1.0;  ///< reconstruction from the read-out, and the whole episode: 0 skips it
  std::int64_t from_epoch = 1;
  double alignment = 1.0;  ///< mean squared distance of the read-out from the code
  double kl = 0.01;        ///< KL of the address from a standard normal

  bool operator==(const MemoryLossConfig&) const = default;
};

struct LossesConfig {
  ItcConfig itc;
  SiglipConfig siglip;
  ItmConfig itm;
  MaxSimConfig maxsim;
  CaptionConfig caption;
  MemoryLossConfig memory;

  bool operator==(const LossesConfig&) const = default;
};

/// What a loss teaches a model, which may then be asked for it. Several losses may teach the same.
enum class Ability {
  kEmbeddings,       ///< one vector an image and one a text: retrieval, zero-shot classification
  kTokenEmbeddings,  ///< one vector a patch and one a token: late interaction, heat maps
  kMatching,         ///< judging pairs: re-ranking
  kCaptions,         ///< writing captions
  kMemory,           ///< writing pairs into the episodic memory, and recalling them
};

/// Calls visit(name, part, ability) for each loss: its name under `losses` in a configuration, its own part
/// of a LossesConfig, which has at least a weight and a from_epoch, and what it teaches.
template <typename Losses, typename Visit>
void for_each_loss(Losses& losses, const Visit& visit) {
  visit("itc", losses.itc, Ability::kEmbeddings);
  visit("siglip", losses.siglip, Ability::kEmbeddings);
  visit("itm", losses.itm, Ability::kMatching);
  visit("maxsim", losses.maxsim, Ability::kTokenEmbeddings);
  visit("caption", losses.caption, Ability::kCaptions);
  visit("memory", losses.memory, Ability::kMemory);
}

/// The section's keys (core/config_rows.h).
ConfigRows config_rows(LossesConfig& losses);

}  // namespace tessera::losses
