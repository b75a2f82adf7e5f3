#include "core/random.h"

#include <c10/util/Exception.h>

#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <utility>

namespace tessera {

namespace {

__extension__ using uint128 = unsigned __int128;

// Multipliers of the rounds and Weyl constants of the key schedule (Salmon et al. 2011, section 3.3).
constexpr std::uint32_t kMultiplier0 = 0xD2511F53u;
constexpr std::uint32_t kMultiplier1 = 0xCD9E8D57u;
constexpr std::uint32_t kWeyl0 = 0x9E3779B9u;
constexpr std::uint32_t kWeyl1 = 0xBB67AE85u;
constexpr int kRounds = 10;

std::uint32_t low_word(std::uint64_t value) { return static_cast<std::uint32_t>(value); }
std::uint32_t high_word(std::uint64_t value) { return static_cast<std::uint32_t>(value >> 32); }

std::uint64_t next_64(CounterRandom& random) {
  const std::uint64_t high = random();
  return (high << 32) | random();
}

}  // namespace

std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < kRounds; ++round) {
    const std::uint64_t product0 = std::uint64_t{kMultiplier0} * counter[0];
    const std::uint64_t product1 = std::uint64_t{kMultiplier1} * counter[2];
    counter = {high_word(product1) ^ counter[1] ^ key[0], low_word(product1),
               high_word(product0) ^ counter[3] ^ key[1], low_word(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

// Seed, purpose, step, index and the place in the stream are 256 bits together, a Philox key and counter 192.
// So the stream's key is itself a Philox output, of counter (purpose, 0, step) under the seed; its counter is
// then (place in the stream, index), 64 bits each, so that streams of one key can't overlap.
CounterRandom::CounterRandom(std::uint64_t seed, RandomPurpose purpose, std::uint64_t step,
                             std::uint64_t index)
    : counter_{0, 0, low_word(index), high_word(index)} {
  const auto derived =
      philox4x32_10({static_cast<std::uint32_t>(purpose), 0, low_word(step), high_word(step)},
                    {low_word(seed), high_word(seed)});
  key_ = {derived[0], derived[1]};
}

void CounterRandom::refill() {
  block_ = philox4x32_10(counter_, key_);
  if (++counter_[0] == 0) {
    ++counter_[1];
  }
  used_ = 0;
}

CounterRandom::result_type CounterRandom::operator()() {
  if (used_ == static_cast<int>(block_.size())) {
    refill();
  }
  return block_[static_cast<std::size_t>(used_++)];
}

double CounterRandom::uniform() { return static_cast<double>(next_64(*this) >> 11) * 0x1p-53; }

double CounterRandom::uniform(double low, double high) {
  const double value = low + (high - low) * uniform();
  // The sum may round up to the open end.
  return value < high || high <= low ? value : std::nextafter(high, low);
}

// Lemire 2019, "Fast random integer generation in an interval": the high half of the product is the draw;
// those whose low half falls into the first 2^64 mod n values are drawn again.
std::uint64_t CounterRandom::below(std::uint64_t n) {
  TORCH_CHECK(n > 0, "CounterRandom::below needs a positive bound");
  uint128 product = static_cast<uint128>(next_64(*this)) * n;
  if (static_cast<std::uint64_t>(product) < n) {
    const std::uint64_t threshold = (0 - n) % n;
    while (static_cast<std::uint64_t>(product) < threshold) {
      product = static_cast<uint128>(next_64(*this)) * n;
    }
  }
  return static_cast<std::uint64_t>(product >> 64);
}

double CounterRandom::normal() {
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));  // 1 - u is in (0, 1]
  return radius * std::cos(2.0 * std::numbers::pi * uniform());
}

std::vector<std::int64_t> random_permutation(std::int64_t n, std::uint64_t seed, RandomPurpose purpose,
                                             std::uint64_t step) {
  TORCH_CHECK(n >= 0, "random_permutation needs a length, got ", n);
  std::vector<std::int64_t> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  // An index that no sample has, so that the permutation shares no number with a sample's own stream.
  CounterRandom random(seed, purpose, step, std::numeric_limits<std::uint64_t>::max());
  for (std::size_t remaining = order.size(); remaining > 1; --remaining) {
    std::swap(order[remaining - 1], order[random.below(remaining)]);
  }
  return order;
}

}  // namespace tessera
