#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/files.h"
#include "core/safetensors.h"

namespace tessera {

/// A safetensors file of one tensor that comes row by row and needn't fit into memory. Rows go to the disk as
/// they come; the header, whose place in front is kept free, when their number is known. The file appears at
/// commit(), whole, or not at all.
class SafetensorsRows {
 public:
  /// @param name           of the tensor
  /// @param dtype          of the file; rows are converted to it
  /// @param metadata_size  bytes of metadata that commit() may bring at most (metadata_size())
  /// @throws Error where the file can't be written or the dtype has no safetensors name
  SafetensorsRows(std::filesystem::path path, std::string name, at::ScalarType dtype,
                  std::uint64_t metadata_size);

  /// @param rows [n, …], each of the shape of those before
  /// @throws Error where the file can't be written
  void append(const at::Tensor& rows);
  /// [N, …]; empty before the first rows.
  const std::vector<std::int64_t>& shape() const { return shape_; }

  /// @throws Error where there is no row, the metadata is longer than was said, or the file can't be written
  void commit(const StringMap& metadata);

  /// What a header needs for it.
  static std::uint64_t metadata_size(const StringMap& metadata);

 private:
  std::filesystem::path path_;
  std::string name_;
  at::ScalarType dtype_;
  std::uint64_t header_size_;
  std::vector<std::int64_t> shape_;
  AtomicFile file_;
};

}  // namespace tessera
