#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "core/safetensors.h"

/// What reading and writing safetensors files have in common. For safetensors*.cpp alone.
namespace tessera::safetensors_format {

inline constexpr std::uint64_t kMaxHeaderSize = 100'000'000;  // the format's own limit
inline constexpr std::uint64_t kLengthSize = 8;
inline constexpr const char* kMetadataKey = "__metadata__";

struct DtypeName {
  at::ScalarType dtype;
  const char* name;
};

// In the order in which the reference writer stores them: alignment descending.
inline constexpr std::array<DtypeName, 16> kDtypes{{
    {at::kUInt64, "U64"},
    {at::kLong, "I64"},
    {at::kDouble, "F64"},
    {at::kComplexFloat, "C64"},
    {at::kFloat, "F32"},
    {at::kUInt32, "U32"},
    {at::kInt, "I32"},
    {at::kBFloat16, "BF16"},
    {at::kHalf, "F16"},
    {at::kUInt16, "U16"},
    {at::kShort, "I16"},
    {at::kFloat8_e4m3fn, "F8_E4M3"},
    {at::kFloat8_e5m2, "F8_E5M2"},
    {at::kChar, "I8"},
    {at::kByte, "U8"},
    {at::kBool, "BOOL"},
}};

/// Position in kDtypes, or its size where the dtype has no name in the format.
inline std::size_t dtype_rank(at::ScalarType dtype) {
  const auto* found = std::find_if(kDtypes.begin(), kDtypes.end(),
                                   [dtype](const DtypeName& entry) { return entry.dtype == dtype; });
  return static_cast<std::size_t>(found - kDtypes.begin());
}

/// What a header says of one tensor.
struct HeaderEntry {
  std::string name;
  at::ScalarType dtype;
  std::vector<std::int64_t> shape;
};

/// Length and JSON of a file's header, the tensors one behind another.
/// @param size  of the result; spaces fill what is left. 0: as many as the data's alignment to 8 needs
/// @throws Error naming `file` where a name can't be written, or the header is longer than the format or
///         `size` allows
std::string header_of(const std::vector<HeaderEntry>& tensors, const StringMap& metadata,
                      const std::string& file, std::uint64_t size = 0);

}  // namespace tessera::safetensors_format
