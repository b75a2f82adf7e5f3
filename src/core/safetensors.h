#pragma once

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/mapped_file.h"

namespace tessera {

using TensorMap = std::map<std::string, at::Tensor>;
using StringMap = std::map<std::string, std::string>;

/// Reads a safetensors file (format: huggingface/safetensors README), memory-mapped. Nothing in the file is
/// trusted: header length, JSON, dtypes, shapes, offsets (contiguous from 0, no overlap, no hole), the file's
/// size and duplicate keys are checked before a tensor is handed out. Every complaint is an Error that names
/// the file and, where there is one, the tensor.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);

  const StringMap& metadata() const { return metadata_; }
  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return entries_.count(name) != 0; }
  std::vector<std::int64_t> shape(const std::string& name) const;
  at::ScalarType dtype(const std::string& name) const;

  /// A view of the mapped file, kept alive by the tensor; treat it as read-only (copy before writing).
  at::Tensor tensor(const std::string& name) const;
  /// All tensors, as tensor() gives them.
  TensorMap tensors() const;

 private:
  struct Entry {
    at::ScalarType dtype;
    std::vector<std::int64_t> shape;
    std::uint64_t begin;
    std::uint64_t end;
  };

  const Entry& entry(const std::string& name) const;
  unsigned char* bytes() const;
  void parse();
  void check_layout() const;

  std::filesystem::path path_;
  std::shared_ptr<MappedFile> file_;
  std::uint64_t data_offset_ = 0;
  std::map<std::string, Entry> entries_;
  StringMap metadata_;
};

/// Writes tensors (any device; made contiguous) in the reference writer's order: dtype alignment descending,
/// then name. The file is written beside its place, fsynced and renamed: a reader sees the old file or the
/// new one.
/// @throws Error where the file can't be written or a dtype has no safetensors name
void write_safetensors(const std::filesystem::path& path, const TensorMap& tensors,
                       const StringMap& metadata = {});

}  // namespace tessera
