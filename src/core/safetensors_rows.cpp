#include "core/safetensors_rows.h"

#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/safetensors_format.h"

namespace tessera {

namespace {

using namespace safetensors_format;

/// For everything of a header but name and metadata: braces, words, and dimensions of 20 digits.
constexpr std::uint64_t kRestOfHeader = 2048;

std::uint64_t aligned(std::uint64_t size) { return (size + 7) / 8 * 8; }

}  // namespace

std::uint64_t SafetensorsRows::metadata_size(const StringMap& metadata) {
  return nlohmann::json(metadata).dump().size();
}

SafetensorsRows::SafetensorsRows(std::filesystem::path path, std::string name, at::ScalarType dtype,
                                 std::uint64_t metadata_size)
    : path_(std::move(path)),
      name_(std::move(name)),
      dtype_(dtype),
      header_size_(aligned(kLengthSize + metadata_size + 6 * name_.size() + kRestOfHeader)),
      file_(path_) {
  // Complains before the work, not after it.
  header_of({{name_, dtype_, {0}}}, {}, path_.string());
  if (header_size_ - kLengthSize > kMaxHeaderSize) {
    fail("{}: names and metadata would take {} bytes, the format allows {}; write several files",
         path_.string(), header_size_, kMaxHeaderSize);
  }
  file_.seek(header_size_);
}

void SafetensorsRows::append(const at::Tensor& rows) {
  TORCH_CHECK(rows.dim() >= 1, "SafetensorsRows: expected rows, found a number");
  if (shape_.empty()) {
    shape_ = rows.sizes().vec();
    shape_[0] = 0;
  }
  TORCH_CHECK(rows.sizes().slice(1) == at::IntArrayRef(shape_).slice(1),
              "SafetensorsRows: rows of the shape ", rows.sizes().slice(1), " after rows of the shape ",
              at::IntArrayRef(shape_).slice(1));
  const at::Tensor dense = rows.detach().to(at::kCPU, dtype_).contiguous();
  file_.write(dense.const_data_ptr(), dense.nbytes());
  shape_[0] += rows.size(0);
}

void SafetensorsRows::commit(const StringMap& metadata) {
  if (shape_.empty()) fail("{}: there are no rows to write", path_.string());
  file_.seek(0);
  file_.write(header_of({{name_, dtype_, shape_}}, metadata, path_.string(), header_size_));
  file_.commit();
}

}  // namespace tessera
