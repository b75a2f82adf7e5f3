#pragma once

#include <cstdint>
#include <cstring>

#include "ops/cpu/vectors.h"

/// The small matrix product inside the CPU kernels: C = A·B with C's block in registers. For kernels' .cpp
/// files alone. An element of C is the same chain of fused multiplications and additions wherever its row
/// stands, so that a row's result doesn't depend on the rows beside it.

namespace tessera::ops::cpu {

/// A, read number by number: element (row, k) at data[row · row_stride + k · depth_stride].
struct Left {
  const float* data;
  std::int64_t row_stride, depth_stride;
};

/// B, read vector by vector: row k at data + k · stride.
struct Right {
  const float* data;
  std::int64_t stride;
};

struct Result {
  float* data;
  std::int64_t stride;
};

/// What is added to a product: a row of numbers to each row of C (stride 0: the same to all), or nothing.
/// Added last, so that a long sum in pieces is a sum of short ones.
struct Addend {
  const float* data = nullptr;
  std::int64_t stride = 0;

  Addend from_column(std::int64_t column) const {
    return {data == nullptr ? nullptr : data + column, stride};
  }
  Addend from_row(std::int64_t row) const {
    return {data == nullptr ? nullptr : data + row * stride, stride};
  }
};

/// What a number of A and a vector of B are, and how their product is added up.
struct FloatProducts {
  using Number = float;

  template <typename V>
  static TESSERA_INLINE void add(typename V::Values& sum, Number left, const typename V::Values& right) {
    sum += left * right;
  }
};

/// kRows × (kWide vectors) of C = A·B + addend, all of it in registers.
template <typename V, int kRows, int kWide, typename Products>
TESSERA_INLINE void multiply_block(const Left& a, const Right& b, const Result& c, std::int64_t depth,
                                   const Addend& addend) {
  using Floats = typename V::Values;
  constexpr std::int64_t kLanes = V::kLanes;
  Floats sums[kRows][kWide] = {};
  for (std::int64_t k = 0; k < depth; ++k) {
    Floats right[kWide];
#pragma GCC unroll 16
    for (int wide = 0; wide < kWide; ++wide) load_vector(right[wide], b.data + k * b.stride + wide * kLanes);
#pragma GCC unroll 16
    for (int row = 0; row < kRows; ++row) {
      typename Products::Number left;
      std::memcpy(&left, a.data + row * a.row_stride + k * a.depth_stride, sizeof(left));
#pragma GCC unroll 16
      for (int wide = 0; wide < kWide; ++wide) Products::template add<V>(sums[row][wide], left, right[wide]);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 16
    for (int wide = 0; wide < kWide; ++wide) {
      if (addend.data != nullptr) {
        Floats added;
        load_vector(added, addend.data + row * addend.stride + wide * kLanes);
        sums[row][wide] += added;
      }
      store_vector(sums[row][wide], c.data + row * c.stride + wide * kLanes);
    }
  }
}

/// All rows of a panel of kWide vectors, kRows at a time, then half as many, …
template <typename V, int kRows, int kWide, typename Products>
TESSERA_INLINE void multiply_rows(std::int64_t rows, Left a, const Right& b, Result c, std::int64_t depth,
                                  Addend addend) {
  while (rows >= kRows) {
    multiply_block<V, kRows, kWide, Products>(a, b, c, depth, addend);
    a.data += kRows * a.row_stride;
    c.data += kRows * c.stride;
    addend = addend.from_row(kRows);
    rows -= kRows;
  }
  if constexpr (kRows > 1) {
    if (rows > 0) multiply_rows<V, kRows / 2, kWide, Products>(rows, a, b, c, depth, addend);
  }
}

/// An instruction set's registers: what a block may hold.
template <std::int64_t kBytes, int kRowsOfOne, int kRowsOfTwo, int kRowsOfFour,
          typename Products = FloatProducts>
struct Registers {
  using V = Vectors<float, kBytes>;
  static constexpr std::int64_t kLanes = V::kLanes;
  /// Columns of the widest block: what a packed panel of B holds (matrix_product.h).
  static constexpr std::int64_t kPanel = (kRowsOfFour > 0 ? 4 : 2) * kLanes;

  /// C = A·B + addend; `columns` are whole vectors. `addend` may be C itself.
  static TESSERA_INLINE void multiply(std::int64_t rows, std::int64_t columns, const Left& a, Right b,
                                      Result c, std::int64_t depth, Addend addend = {}) {
    std::int64_t wide = columns / kLanes;
    const auto advance = [&](std::int64_t vectors) TESSERA_INLINED {
      b.data += vectors * kLanes;
      c.data += vectors * kLanes;
      addend = addend.from_column(vectors * kLanes);
      wide -= vectors;
    };
    if constexpr (kRowsOfFour > 0) {
      while (wide >= 4) {
        multiply_rows<V, kRowsOfFour, 4, Products>(rows, a, b, c, depth, addend);
        advance(4);
      }
      if (wide == 3) {
        multiply_rows<V, kRowsOfFour, 3, Products>(rows, a, b, c, depth, addend);
        advance(3);
      }
    }
    while (wide >= 2) {
      multiply_rows<V, kRowsOfTwo, 2, Products>(rows, a, b, c, depth, addend);
      advance(2);
    }
    if (wide == 1) multiply_rows<V, kRowsOfOne, 1, Products>(rows, a, b, c, depth, addend);
  }
};

template <std::int64_t kBytes>
struct RegistersOf;
template <>
struct RegistersOf<64> : Registers<64, 8, 6, 6> {};  // 32 registers
template <>
struct RegistersOf<32> : Registers<32, 8, 6, 0> {};  // 16
template <>
struct RegistersOf<16> : Registers<16, 8, 4, 0> {};  // 16

}  // namespace tessera::ops::cpu
