#include "train/loss_starts.h"

#include <fmt/ranges.h>

#include <map>

namespace tessera::train {

losses::LossesConfig losses_in_epoch(const losses::LossesConfig& losses, std::int64_t epoch) {
  losses::LossesConfig now = losses;
  for_each_loss(now, [&](const char*, auto& loss, losses::Ability) {
    if (epoch + 1 < loss.from_epoch) loss.weight = 0;
  });
  return now;
}

std::vector<std::string> losses_from_epoch(const losses::LossesConfig& losses, std::int64_t epoch) {
  std::vector<std::string> names;
  for_each_loss(losses, [&](const char* name, const auto& loss, losses::Ability) {
    if (loss.weight > 0 && loss.from_epoch == epoch + 1) names.emplace_back(name);
  });
  return names;
}

std::string loss_plan(const losses::LossesConfig& losses) {
  std::map<std::int64_t, std::vector<std::string>> by_epoch;
  for_each_loss(losses, [&](const char* name, const auto& loss, losses::Ability) {
    if (loss.weight > 0) by_epoch[loss.from_epoch].emplace_back(name);
  });
  if (by_epoch.rbegin()->first == 1) return {};
  std::string plan;
  for (const auto& [epoch, names] : by_epoch) {
    plan += fmt::format("{}{} in epoch {}", plan.empty() ? "" : "; ", fmt::join(names, ", "), epoch);
  }
  return plan;
}

}  // namespace tessera::train
