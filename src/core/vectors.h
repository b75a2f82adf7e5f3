#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

/// What the CPU kernels are written in: vectors by the compiler's own extension, so that one source becomes
/// code for every instruction set. For kernels' .cpp files alone.

// A function so marked is compiled for several instruction sets, of which the processor's best is chosen at
// start. (Under sanitizers the choice would run before their runtime is ready.)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__)
#define TESSERA_FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TESSERA_FOR_EACH_PROCESSOR
#endif
#define TESSERA_INLINE inline __attribute__((always_inline))

namespace tessera {

/// One vector register of the widest kind; the compiler makes several narrower ones of it where it must.
constexpr std::int64_t kVectorBytes = 64;

template <typename Scalar>
struct Vectors {
  using Index = std::conditional_t<sizeof(Scalar) == 4, std::int32_t, std::int64_t>;
  static constexpr std::int64_t kLanes = kVectorBytes / static_cast<std::int64_t>(sizeof(Scalar));
  static constexpr auto kAllLanes = std::make_index_sequence<static_cast<std::size_t>(kLanes)>();
  typedef Scalar Values __attribute__((vector_size(kVectorBytes)));
  typedef Index Indices __attribute__((vector_size(kVectorBytes)));
  typedef std::make_unsigned_t<Index> Bits __attribute__((vector_size(kVectorBytes)));
};

template <typename Vector, typename Scalar>
TESSERA_INLINE void load_vector(Vector& vector, const Scalar* from) {
  std::memcpy(&vector, from, sizeof(Vector));
}

template <typename Vector, typename Scalar>
TESSERA_INLINE void store_vector(const Vector& vector, Scalar* to) {
  std::memcpy(to, &vector, sizeof(Vector));
}

/// Brings lane l ^ distance into lane l.
template <int kDistance, typename Vector, std::size_t... kLane>
TESSERA_INLINE void exchange(Vector& vector, std::index_sequence<kLane...>) {
  vector = __builtin_shufflevector(vector, vector, (static_cast<int>(kLane) ^ kDistance)...);
}

/// The greatest of all lanes, or the smallest, in every lane.
template <int kDistance, typename Vector, typename Lanes>
TESSERA_INLINE void spread_greatest(Vector& vector, Lanes lanes) {
  Vector other = vector;
  exchange<kDistance>(other, lanes);
  vector = other > vector ? other : vector;
  if constexpr (kDistance > 1) spread_greatest<kDistance / 2>(vector, lanes);
}

template <int kDistance, typename Vector, typename Lanes>
TESSERA_INLINE void spread_smallest(Vector& vector, Lanes lanes) {
  Vector other = vector;
  exchange<kDistance>(other, lanes);
  vector = other < vector ? other : vector;
  if constexpr (kDistance > 1) spread_smallest<kDistance / 2>(vector, lanes);
}

/// The sum of all lanes, in every lane.
template <int kDistance, typename Vector, typename Lanes>
TESSERA_INLINE void spread_sum(Vector& vector, Lanes lanes) {
  Vector other = vector;
  exchange<kDistance>(other, lanes);
  vector += other;
  if constexpr (kDistance > 1) spread_sum<kDistance / 2>(vector, lanes);
}

/// exp(x) for x ≤ 0 within 2 units in the last place; exactly 0 below the smallest normal number, so also for
/// −inf. (Cody and Waite's reduction by ln 2 in two parts; the polynomial is Cephes'.)
TESSERA_INLINE void exp_not_positive(Vectors<float>::Values& x) {
  constexpr float kSmallest = -87.33654F;
  const Vectors<float>::Values clamped = x < kSmallest ? Vectors<float>::Values{} + kSmallest : x;
  constexpr float kRounding =
      12582912.0F;  // 1.5 · 2²³: adding it leaves the nearest integer in the last bits
  const Vectors<float>::Values shifted = clamped * 1.44269504F + kRounding;
  const Vectors<float>::Values powers = shifted - kRounding;
  const Vectors<float>::Values rest = clamped - powers * 0.693359375F + powers * 2.12194440e-4F;
  Vectors<float>::Values p = rest * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * rest + 8.3334519073e-3F;
  p = p * rest + 4.1665795894e-2F;
  p = p * rest + 1.6666665459e-1F;
  p = p * rest + 5.0000001201e-1F;
  p = p * rest * rest + rest + 1.0F;
  const Vectors<float>::Indices exponent = (__builtin_convertvector(powers, Vectors<float>::Indices) + 127)
                                           << 23;
  Vectors<float>::Values scale;
  static_assert(sizeof(scale) == sizeof(exponent));
  std::memcpy(&scale, &exponent, sizeof(scale));
  x = x < kSmallest ? Vectors<float>::Values{} : p * scale;
}

/// `count` rounded up to whole vectors.
template <typename Scalar>
constexpr std::int64_t whole_vectors(std::int64_t count) {
  constexpr std::int64_t kLanes = Vectors<Scalar>::kLanes;
  return (count + kLanes - 1) / kLanes * kLanes;
}

}  // namespace tessera
