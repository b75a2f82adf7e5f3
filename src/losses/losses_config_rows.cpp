#include "losses/losses_config.h"

#include "core/config_rows.h"

namespace tessera::losses {

namespace {

ConfigKey from_epoch(std::string path, std::int64_t& member) {
  return config_kinds::integer(
      std::move(path), member, {1, 1 << 20},
      "Epoch, counted from 1, in which this loss joins; before, it is left out as with weight 0");
}

}  // namespace

ConfigRows config_rows(LossesConfig& losses) {
  using namespace config_kinds;
  return rows(
      "What is minimised",
      {TESSERA_GROUP(losses.itc, "Image-text contrast"),
       TESSERA_GROUP(losses.itc.queue, "Negatives from past batches"),
       TESSERA_GROUP(losses.siglip, "Image-text contrast by sigmoids, pair by pair (SigLIP)"),
       TESSERA_GROUP(losses.itm, "Image-text matching"),
       TESSERA_GROUP(losses.maxsim, "Contrast by late interaction"),
       TESSERA_GROUP(losses.caption, "Next-token loss of captions that see the image"),
       TESSERA_GROUP(losses.memory, "What the memory episode minimises"),
       TESSERA_KEY(number, losses.itc.weight, kNonNegative, "Factor on the image-text contrastive loss"),
       TESSERA_KEY(from_epoch, losses.itc.from_epoch),
       learned(TESSERA_KEY(number, losses.itc.temperature, {.minimum = 0.001, .maximum = 10},
                           "Initial temperature; it is learned")),
       TESSERA_KEY(number, losses.itc.temperature_min, {.minimum = 0.001, .maximum = 10},
                   "The learned temperature stays at or above it"),
       TESSERA_KEY(integer, losses.itc.queue.size, {0, 1 << 20},
                   "Embeddings of past batches kept as further negatives; 0: no queue"),
       TESSERA_KEY(words<SameId>, losses.itc.queue.same_id,
                   {{"ignore", SameId::kIgnore}, {"positive", SameId::kPositive}},
                   "A queued entry of the same image: left out, or a positive"),
       TESSERA_KEY(
           number, losses.itc.queue.max_shift, kNonNegative,
           "Nats by which an entry's age may move its logits; staler entries are left out; 0: no such rule"),
       TESSERA_KEY(integer, losses.itc.queue.probe_pairs, {2, 4096},
                   "Pairs that are encoded again and again to measure that shift"),
       TESSERA_KEY(integer, losses.itc.queue.probe_every, {1, 1 << 20},
                   "Steps between two such measurements"),
       TESSERA_KEY(number, losses.siglip.weight, kNonNegative,
                   "Factor on the sigmoid loss of image-text pairs (SigLIP), beside ITC or in its place; 0: "
                   "left out"),
       TESSERA_KEY(from_epoch, losses.siglip.from_epoch),
       learned(TESSERA_KEY(number, losses.siglip.temperature, {.minimum = 0.001, .maximum = 10},
                           "Initial temperature of the sigmoid loss; it is learned")),
       TESSERA_KEY(number, losses.siglip.temperature_min, {.minimum = 0.001, .maximum = 10},
                   "Floor of that temperature"),
       learned(
           TESSERA_KEY(number, losses.siglip.bias, {.minimum = -100, .maximum = 100},
                       "Initial bias on its logits, far below 0 since most pairs are none; it is learned")),
       TESSERA_KEY(number, losses.itm.weight, kNonNegative,
                   "Weight of image-text matching with hard negatives; 0: left out, with its passes"),
       TESSERA_KEY(from_epoch, losses.itm.from_epoch),
       TESSERA_KEY(
           number, losses.itm.uniform_share, kFraction,
           "Share of those negatives that are drawn uniformly; more than 0 where hard ones are too hard to "
           "begin with"),
       TESSERA_KEY(number, losses.maxsim.weight, kNonNegative,
                   "Weight of contrast by late interaction; 0: left out"),
       TESSERA_KEY(from_epoch, losses.maxsim.from_epoch),
       learned(TESSERA_KEY(number, losses.maxsim.temperature, {.minimum = 0.001, .maximum = 10},
                           "Initial temperature of late interaction; it is learned")),
       TESSERA_KEY(number, losses.maxsim.temperature_min, {.minimum = 0.001, .maximum = 10},
                   "Floor of that temperature"),
       TESSERA_KEY(number, losses.caption.weight, kNonNegative,
                   "Weight of the caption's next-token loss; 0: left out, with its pass"),
       TESSERA_KEY(from_epoch, losses.caption.from_epoch),
       TESSERA_KEY(number, losses.memory.weight, kNonNegative,
                   "Weight of the memory episode, of which the caption's reconstruction is 1; 0: left out"),
       TESSERA_KEY(from_epoch, losses.memory.from_epoch),
       TESSERA_KEY(number, losses.memory.alignment, kNonNegative,
                   "Of the mean squared distance between read-out and code, within the episode's loss"),
       TESSERA_KEY(number, losses.memory.kl, kNonNegative,
                   "Of the KL divergence of the address from a standard normal, within the episode's loss")});
}

}  // namespace tessera::losses
