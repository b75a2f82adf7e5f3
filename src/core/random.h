#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace tessera {

/// What a random number decides. Part of the generator's key, so that one purpose never shifts another.
/// The numbers are stored in no file; changing one changes which data a seed trains on.
enum class RandomPurpose : std::uint32_t {
  kShuffle = 1,
  kCaption = 2,
  kAugmentation = 3,
  kNegatives = 4,
  kMemoryQuery = 5,
  kInitialisation = 6,
  kShapes = 7,
  kProbe = 8,
  kGeneration = 9,
};

/// Counter-based generator, Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2,
/// 3"). A draw is a function of (seed, purpose, step, index) and its place in the stream alone: one process
/// and eight draw the same, and a resumed run continues.
class CounterRandom {
 public:
  using result_type = std::uint32_t;

  /// @param step   epoch or training step, whatever the purpose counts
  /// @param index  global sample index
  CounterRandom(std::uint64_t seed, RandomPurpose purpose, std::uint64_t step, std::uint64_t index);

  static constexpr result_type min() { return 0; }
  static constexpr result_type max() { return 0xffffffffu; }

  /// The next 32 uniform bits (UniformRandomBitGenerator).
  result_type operator()();
  /// Uniform in [0, 1), 53 bits.
  double uniform();
  /// Uniform in [low, high).
  double uniform(double low, double high);
  /// Uniform integer in [0, n), without modulo bias. Throws c10::Error where n is 0.
  std::uint64_t below(std::uint64_t n);
  /// Standard normal (Box-Muller).
  double normal();

 private:
  void refill();

  std::array<std::uint32_t, 2> key_;
  std::array<std::uint32_t, 4> counter_;
  std::array<std::uint32_t, 4> block_{};
  int used_ = 4;
};

/// A permutation of 0 … n-1 (Fisher-Yates), a function of (seed, purpose, step) alone.
std::vector<std::int64_t> random_permutation(std::int64_t n, std::uint64_t seed, RandomPurpose purpose,
                                             std::uint64_t step);

/// One round trip of Philox4x32-10, exposed for its known-answer test.
std::array<std::uint32_t, 4> philox4x32_10(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key);

}  // namespace tessera
