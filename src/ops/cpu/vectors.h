#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

/// What the CPU kernels are written in: vectors by the compiler's own extension, so that one source becomes
/// code for every instruction set. For kernels' .cpp files alone.

#define TESSERA_INLINE inline __attribute__((always_inline))
#define TESSERA_INLINED __attribute__((always_inline))  // for a lambda

/// Defines NAME PARAMETERS as NAME_with<bytes of a vector> ARGUMENTS, an always-inlined template, compiled
/// for each instruction set and called by what the processor has. A vector must fit the registers: of a wider
/// one the compiler makes several where it adds and multiplies, but single numbers where it compares and
/// selects.
#if defined(__x86_64__) && defined(__GNUC__)
#define TESSERA_KERNEL(result, name, parameters, arguments)                                                \
  __attribute__((target("avx512f"))) result name##_avx512 parameters { return name##_with<64> arguments; } \
  __attribute__((target("avx2,fma"))) result name##_avx2 parameters { return name##_with<32> arguments; }  \
  result name##_any parameters { return name##_with<16> arguments; }                                       \
  result name parameters {                                                                                 \
    switch (tessera::ops::cpu::instruction_set()) {                                                        \
      case tessera::ops::cpu::InstructionSet::kAvx512:                                                     \
        return name##_avx512 arguments;                                                                    \
      case tessera::ops::cpu::InstructionSet::kAvx2:                                                       \
        return name##_avx2 arguments;                                                                      \
      default:                                                                                             \
        return name##_any arguments;                                                                       \
    }                                                                                                      \
  }
#else
#define TESSERA_KERNEL(result, name, parameters, arguments) \
  result name parameters { return name##_with<16> arguments; }
#endif

namespace tessera::ops::cpu {

enum class InstructionSet { kAny, kAvx2, kAvx512 };

/// The one that kernels use: LibTorch's own choice, which ATEN_CPU_CAPABILITY (default, avx2, avx512) limits.
InstructionSet instruction_set();

/// Whether, with AVX-512, the processor also has instructions that multiply bfloat16 (AVX512-BF16).
bool multiplies_bfloat16();

template <typename Scalar, std::int64_t kBytes>
struct Vectors {
  using Index = std::conditional_t<sizeof(Scalar) == 4, std::int32_t, std::int64_t>;
  static constexpr std::int64_t kLanes = kBytes / static_cast<std::int64_t>(sizeof(Scalar));
  static constexpr auto kAllLanes = std::make_index_sequence<static_cast<std::size_t>(kLanes)>();
  typedef Scalar Values __attribute__((vector_size(kBytes)));
  typedef Index Indices __attribute__((vector_size(kBytes)));
  typedef std::make_unsigned_t<Index> Bits __attribute__((vector_size(kBytes)));
};

template <typename Vector, typename Scalar>
TESSERA_INLINE void load_vector(Vector& vector, const Scalar* from) {
  std::memcpy(&vector, from, sizeof(Vector));
}

template <typename Vector, typename Scalar>
TESSERA_INLINE void store_vector(const Vector& vector, Scalar* to) {
  std::memcpy(to, &vector, sizeof(Vector));
}

/// A whole vector, or the first elements of one. Loops over both stand twice in the program, once for each: a
/// copy of a length known only when it runs would cost more than what is computed.
struct Whole {};
struct Part {
  std::int64_t count;
};

template <typename Vector>
TESSERA_INLINE void load(Vector& vector, const float* from, Whole) {
  load_vector(vector, from);
}
template <typename Vector>
TESSERA_INLINE void load(Vector& vector, const float* from, Part part) {
  vector = Vector{};
  std::memcpy(&vector, from, static_cast<std::size_t>(part.count) * sizeof(float));
}

template <typename Vector>
TESSERA_INLINE void store(const Vector& vector, float* to, Whole) {
  store_vector(vector, to);
}
template <typename Vector>
TESSERA_INLINE void store(const Vector& vector, float* to, Part part) {
  std::memcpy(to, &vector, static_cast<std::size_t>(part.count) * sizeof(float));
}

/// Calls body(first element, Whole or Part) for all of `count` elements.
template <std::int64_t kBytes, typename Body>
TESSERA_INLINE void for_vectors(std::int64_t count, const Body& body) {
  constexpr std::int64_t kLanes = Vectors<float, kBytes>::kLanes;
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, Whole{});
  if (i < count) body(i, Part{count - i});
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
/// @tparam V Vectors<float, …>
template <typename V>
TESSERA_INLINE void exp_not_positive(typename V::Values& x) {
  using Floats = typename V::Values;
  using Ints = typename V::Indices;
  constexpr float kSmallest = -87.33654F;
  const Floats clamped = x < kSmallest ? Floats{} + kSmallest : x;
  constexpr float kRounding =
      12582912.0F;  // 1.5 · 2²³: adding it leaves the nearest integer in the last bits
  const Floats shifted = clamped * 1.44269504F + kRounding;
  const Floats powers = shifted - kRounding;
  const Floats rest = clamped - powers * 0.693359375F + powers * 2.12194440e-4F;
  Floats p = rest * 1.9875691500e-4F + 1.3981999507e-3F;
  p = p * rest + 8.3334519073e-3F;
  p = p * rest + 4.1665795894e-2F;
  p = p * rest + 1.6666665459e-1F;
  p = p * rest + 5.0000001201e-1F;
  p = p * rest * rest + rest + 1.0F;
  const Ints exponent = (__builtin_convertvector(powers, Ints) + 127) << 23;
  Floats scale;
  static_assert(sizeof(scale) == sizeof(exponent));
  std::memcpy(&scale, &exponent, sizeof(scale));
  x = x < kSmallest ? Floats{} : p * scale;
}

/// `count` rounded up to whole vectors of every instruction set.
template <typename Scalar>
constexpr std::int64_t whole_vectors(std::int64_t count) {
  constexpr std::int64_t kLanes = Vectors<Scalar, 64>::kLanes;
  return (count + kLanes - 1) / kLanes * kLanes;
}

}  // namespace tessera::ops::cpu
