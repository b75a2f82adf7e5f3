#include "data/broken_samples.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace tessera::data {
namespace {

constexpr std::int64_t kJudgedOver = 1000;
constexpr std::int64_t kShortestSearch = 64;
constexpr std::size_t kKeysNamed = 5;

}  // namespace

BrokenSampleCount::BrokenSampleCount(const Source& source, double max_fraction, Logger logger)
    : source_size_(source.size() + source.damage().incomplete_samples),
      incomplete_(source.damage().incomplete_samples),
      max_fraction_(max_fraction),
      logger_(std::move(logger)),
      first_keys_(source.damage().first_keys) {
  // The source has been looked through, so what is incomplete is judged against all of them.
  if (static_cast<double>(incomplete_) > max_fraction_ * static_cast<double>(source_size_)) {
    fail("{} of {} samples are incomplete, {}", incomplete_, source_size_, more_than_allowed());
  }
}

std::string BrokenSampleCount::more_than_allowed() const {
  return fmt::format(
      "more than data.max_broken_fraction {} allows (the programs that only read a model have "
      "--max-broken-fraction); the first: {}",
      max_fraction_, fmt::join(first_keys_, ", "));
}

void BrokenSampleCount::account(const std::vector<BatchRow>& rows) {
  seen_ += static_cast<std::int64_t>(rows.size());
  for (const auto& row : rows) {
    for (const auto& broken : row.broken) {
      if (!indices_.insert(broken.index).second) continue;
      logger_->warn("broken sample '{}' left out: {}", broken.key, broken.reason);
      if (first_keys_.size() < kKeysNamed) first_keys_.push_back(broken.key);
    }
  }
  check();
}

void BrokenSampleCount::check() const {
  const auto broken = static_cast<std::int64_t>(indices_.size());
  const std::int64_t judged_over = std::min(source_size_, std::max(seen_, kJudgedOver));
  if (static_cast<double>(broken) <= max_fraction_ * static_cast<double>(judged_over)) return;
  fail("{} broken samples among the {} seen, {}", broken, std::min(seen_, source_size_), more_than_allowed());
}

std::int64_t BrokenSampleCount::longest_search() const {
  const auto allowed =
      static_cast<std::int64_t>(max_fraction_ * static_cast<double>(std::min(source_size_, kJudgedOver)));
  return std::max(kShortestSearch, allowed + 1);
}

}  // namespace tessera::data
