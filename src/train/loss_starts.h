#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "losses/losses_config.h"

namespace tessera::train {

/// The losses of an epoch: one that begins later (losses.NAME.from_epoch) has weight 0 until then.
/// @param epoch  counted from 0
losses::LossesConfig losses_in_epoch(const losses::LossesConfig& losses, std::int64_t epoch);

/// Names of the losses of weight above 0 that are trained from this epoch on.
/// @param epoch  counted from 0
std::vector<std::string> losses_from_epoch(const losses::LossesConfig& losses, std::int64_t epoch);

/// "caption in epoch 1; itc, itm in epoch 4": which losses begin when. Empty where all begin in the first.
std::string loss_plan(const losses::LossesConfig& losses);

}  // namespace tessera::train
