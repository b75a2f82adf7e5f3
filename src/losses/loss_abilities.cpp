#include "losses/loss_abilities.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "core/error.h"

namespace tessera {

std::optional<std::int64_t> first_epoch(const losses::LossesConfig& losses, losses::Ability ability) {
  std::optional<std::int64_t> first;
  for_each_loss(losses, [&](const char*, const auto& loss, losses::Ability taught) {
    if (taught != ability || loss.weight == 0) return;
    first = first ? std::min(*first, loss.from_epoch) : loss.from_epoch;
  });
  return first;
}

bool trains(const losses::LossesConfig& losses, losses::Ability ability) {
  return first_epoch(losses, ability).has_value();
}

void require_trained(const losses::LossesConfig& losses, losses::Ability ability,
                     const std::string& asked_by) {
  if (trains(losses, ability)) return;
  const char* missing = "";
  switch (ability) {
    case losses::Ability::kEmbeddings:
      missing = "a contrast of embeddings";
      break;
    case losses::Ability::kTokenEmbeddings:
      missing = "MaxSim";
      break;
    case losses::Ability::kMatching:
      missing = "matching";
      break;
    case losses::Ability::kCaptions:
      missing = "captions";
      break;
    case losses::Ability::kMemory:
      missing = "the memory";
      break;
  }
  std::vector<std::string> weights;
  for_each_loss(losses, [&](const char* name, const auto&, losses::Ability taught) {
    if (taught == ability) weights.push_back(fmt::format("losses.{}.weight", name));
  });
  fail("{}: the model was trained without {} ({} {} 0)", asked_by, missing, fmt::join(weights, " and "),
       weights.size() == 1 ? "is" : "are");
}

double loss_weight(const losses::LossesConfig& losses, std::string_view name) {
  double weight = 0;
  for_each_loss(losses, [&](const char* other, const auto& loss, losses::Ability) {
    if (name == other) weight = loss.weight;
  });
  return weight;
}

}  // namespace tessera
