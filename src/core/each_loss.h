#pragma once

namespace tessera {

/// Calls visit(name, part) for each loss: its name under `losses` in a configuration, and its own part of a
/// LossesConfig (core/config.h), which has at least a weight and a from_epoch.
template <typename Losses, typename Visit>
void for_each_loss(Losses& losses, const Visit& visit) {
  visit("itc", losses.itc);
  visit("itm", losses.itm);
  visit("maxsim", losses.maxsim);
  visit("caption", losses.caption);
  visit("memory", losses.memory);
}

}  // namespace tessera
