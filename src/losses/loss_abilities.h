#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "losses/losses_config.h"

namespace tessera {

/// Whether a loss of weight above 0 teaches it.
bool trains(const losses::LossesConfig& losses, losses::Ability ability);

/// The first epoch, counted from 1, in which a loss teaches it; none where no loss does.
std::optional<std::int64_t> first_epoch(const losses::LossesConfig& losses, losses::Ability ability);

/// @param asked_by  names what needs the ability, or the model's folder
/// @throws Error "ASKED_BY: the model was trained without MaxSim (losses.maxsim.weight is 0)"
void require_trained(const losses::LossesConfig& losses, losses::Ability ability,
                     const std::string& asked_by);

/// 0 also where there is no loss of that name.
double loss_weight(const losses::LossesConfig& losses, std::string_view name);

}  // namespace tessera
