#include "core/safetensors.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "core/error.h"
#include "core/file_kind.h"
#include "core/files.h"
#include "core/safetensors_format.h"

namespace tessera {

namespace {

using namespace safetensors_format;
using Json = nlohmann::json;

constexpr std::size_t kMaxRank = 64;

std::optional<at::ScalarType> dtype_from_name(const std::string& name) {
  for (const auto& entry : kDtypes) {
    if (name == entry.name) {
      return entry.dtype;
    }
  }
  return std::nullopt;
}

/// A parser's message may quote a whole token of the file.
std::string shortened(const std::string& text) {
  constexpr std::size_t kLength = 200;
  return text.size() <= kLength ? text : text.substr(0, kLength) + "…";
}

/// The header's JSON. The format nests two levels deep, and no more is parsed; a key that comes twice is
/// refused, since readers differ in which of the two they would take.
Json parse_header(const char* begin, const char* end, const std::string& file) {
  std::vector<std::set<std::string>> keys;
  const auto callback = [&](int depth, Json::parse_event_t event, Json& parsed) {
    using Event = Json::parse_event_t;
    if ((event == Event::object_start || event == Event::array_start) && depth > 2) {
      fail("{}: header: values are nested deeper than the format allows", file);
    }
    if (event == Event::object_start) {
      keys.emplace_back();
    } else if (event == Event::object_end) {
      keys.pop_back();
    } else if (event == Event::key && !keys.back().insert(parsed.get<std::string>()).second) {
      fail("{}: header: key '{}' is given twice", file, shortened(parsed.get<std::string>()));
    }
    return true;
  };
  try {
    return Json::parse(begin, end, callback);
  } catch (const Json::exception& error) {
    fail("{}: header is no valid JSON: {}", file, shortened(error.what()));
  }
}

StringMap parse_metadata(const Json& value, const std::string& file) {
  if (!value.is_object()) {
    fail("{}: header: '__metadata__' has to be an object, found {}", file, value.type_name());
  }
  StringMap metadata;
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) {
      fail("{}: header: metadata '{}' has to be a string, found {}", file, key, text.type_name());
    }
    metadata[key] = text.get<std::string>();
  }
  return metadata;
}

std::uint64_t unsigned_number(const Json& value, const std::string& where, const char* what) {
  if (!value.is_number_unsigned()) {
    fail("{}: {} has to be a whole number from 0, found {}", where, what, shortened(value.dump()));
  }
  return value.get<std::uint64_t>();
}

const Json& member(const Json& object, const char* key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) {
    fail("{}: '{}' is missing", where, key);
  }
  return *found;
}

std::vector<std::int64_t> parse_shape(const Json& value, const std::string& where) {
  if (!value.is_array()) {
    fail("{}: 'shape' has to be a list, found {}", where, value.type_name());
  }
  if (value.size() > kMaxRank) {
    fail("{}: has {} dimensions, at most {} are possible", where, value.size(), kMaxRank);
  }
  std::vector<std::int64_t> shape;
  for (const auto& size : value) {
    const std::uint64_t number = unsigned_number(size, where, "a dimension");
    if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      fail("{}: dimension {} is too large", where, number);
    }
    shape.push_back(static_cast<std::int64_t>(number));
  }
  return shape;
}

struct Description {
  at::ScalarType dtype;
  std::vector<std::int64_t> shape;
  std::uint64_t begin;
  std::uint64_t end;
};

Description parse_description(const Json& value, const std::string& where) {
  if (!value.is_object()) {
    fail("{}: its description has to be an object, found {}", where, value.type_name());
  }
  if (value.size() != 3) {
    fail("{}: its description has to have dtype, shape and data_offsets and nothing else", where);
  }
  const Json& dtype_name = member(value, "dtype", where);
  const auto dtype = dtype_name.is_string() ? dtype_from_name(dtype_name.get<std::string>()) : std::nullopt;
  if (!dtype) {
    fail("{}: dtype {} is not known", where, shortened(dtype_name.dump()));
  }
  const Json& offsets = member(value, "data_offsets", where);
  if (!offsets.is_array() || offsets.size() != 2) {
    fail("{}: 'data_offsets' has to be a list of two numbers", where);
  }
  return {*dtype, parse_shape(member(value, "shape", where), where),
          unsigned_number(offsets[0], where, "an offset"), unsigned_number(offsets[1], where, "an offset")};
}

/// Bytes of a tensor. The strides of an empty tensor are products of its other dimensions, so these may not
/// overflow either.
std::uint64_t byte_size(const std::vector<std::int64_t>& shape, at::ScalarType dtype,
                        const std::string& where) {
  const std::uint64_t limit = std::numeric_limits<std::int64_t>::max();
  std::uint64_t extent = c10::elementSize(dtype);
  bool empty = false;
  for (const std::int64_t size : shape) {
    empty = empty || size == 0;
    const std::uint64_t factor = std::max<std::uint64_t>(static_cast<std::uint64_t>(size), 1);
    if (factor > limit / extent) {
      fail("{}: shape [{}] has too many elements", where, fmt::join(shape, ", "));
    }
    extent *= factor;
  }
  return empty ? 0 : extent;
}

std::uint64_t little_endian_64(const unsigned char* bytes) {
  std::uint64_t value = 0;
  for (int i = 7; i >= 0; --i) {
    value = (value << 8) | bytes[i];
  }
  return value;
}

/// A BOOL byte other than 0 and 1 would be undefined behaviour wherever the tensor is read.
void check_bool_bytes(const unsigned char* data, std::uint64_t size, const std::string& file,
                      const std::string& name) {
  const auto* found = std::find_if(data, data + size, [](unsigned char byte) { return byte > 1; });
  if (found != data + size) {
    fail("{}: tensor '{}': a BOOL byte has to be 0 or 1, found {} at element {}", file, name, *found,
         found - data);
  }
}

}  // namespace

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path)
    : path_(path), file_(std::make_shared<MappedFile>(path, MappedFile::Access::kCopyOnWrite)) {
  parse();
  check_layout();
}

unsigned char* SafetensorsFile::bytes() const { return reinterpret_cast<unsigned char*>(file_->data()); }

void SafetensorsFile::parse() {
  const std::string file = path_.string();
  const std::uint64_t file_size = file_->bytes().size();
  refuse_other_kind(file_->bytes(), file, "safetensors file", {FileKind::kSafetensors});
  if (file_size < kLengthSize) {
    fail("{}: is no safetensors file: {} bytes, at least {} expected", file, file_size, kLengthSize);
  }
  const std::uint64_t header_size = little_endian_64(bytes());
  if (header_size > kMaxHeaderSize) {
    fail("{}: is no safetensors file: the header would have {} bytes, at most {} are allowed", file,
         header_size, kMaxHeaderSize);
  }
  if (header_size > file_size - kLengthSize) {
    fail("{}: is cut off: the header has {} bytes, the file {} in all", file, header_size, file_size);
  }
  data_offset_ = kLengthSize + header_size;
  const char* begin = reinterpret_cast<const char*>(bytes()) + kLengthSize;
  if (header_size == 0 || *begin != '{') {
    fail("{}: is no safetensors file: the header has to begin with '{{'", file);
  }
  const Json header = parse_header(begin, begin + header_size, file);
  for (const auto& [name, value] : header.items()) {
    if (name == kMetadataKey) {
      metadata_ = parse_metadata(value, file);
      continue;
    }
    const Description description =
        parse_description(value, fmt::format("{}: tensor '{}'", file, shortened(name)));
    entries_[name] = Entry{description.dtype, description.shape, description.begin, description.end};
  }
}

/// Tensors lie one after the other from the first byte of the data to the last of the file.
void SafetensorsFile::check_layout() const {
  using Named = std::pair<const std::string, Entry>;
  std::vector<const Named*> order;
  for (const auto& named : entries_) {
    order.push_back(&named);
  }
  std::sort(order.begin(), order.end(), [](const Named* left, const Named* right) {
    return std::pair(left->second.begin, left->second.end) <
           std::pair(right->second.begin, right->second.end);
  });
  std::uint64_t expected = 0;
  for (const Named* named : order) {
    const Entry& entry = named->second;
    const std::string where = fmt::format("{}: tensor '{}'", path_.string(), shortened(named->first));
    if (entry.begin != expected) {
      fail("{}: begins at offset {}, expected {} (tensors may leave no hole and not overlap)", where,
           entry.begin, expected);
    }
    const std::uint64_t size = byte_size(entry.shape, entry.dtype, where);
    if (entry.end < entry.begin || entry.end - entry.begin != size) {
      fail("{}: offsets {} to {} don't fit {} [{}], which takes {} bytes", where, entry.begin, entry.end,
           c10::toString(entry.dtype), fmt::join(entry.shape, ", "), size);
    }
    expected = entry.end;
  }
  const std::uint64_t data_size = file_->bytes().size() - data_offset_;
  if (expected != data_size) {
    const auto cut = std::find_if(order.begin(), order.end(),
                                  [&](const Named* named) { return named->second.end > data_size; });
    fail("{}: has {} bytes of data, its header describes {}{}", path_.string(), data_size, expected,
         cut == order.end() ? "" : fmt::format(" (tensor '{}' is not all there)", shortened((*cut)->first)));
  }
}

const SafetensorsFile::Entry& SafetensorsFile::entry(const std::string& name) const {
  const auto found = entries_.find(name);
  if (found == entries_.end()) {
    fail("{}: tensor '{}' is missing", path_.string(), name);
  }
  return found->second;
}

std::vector<std::string> SafetensorsFile::names() const {
  std::vector<std::string> names;
  for (const auto& named : entries_) {
    names.push_back(named.first);
  }
  return names;
}

std::vector<std::int64_t> SafetensorsFile::shape(const std::string& name) const { return entry(name).shape; }

at::ScalarType SafetensorsFile::dtype(const std::string& name) const { return entry(name).dtype; }

at::Tensor SafetensorsFile::tensor(const std::string& name) const {
  const Entry& found = entry(name);
  const auto options = at::TensorOptions().dtype(found.dtype);
  if (found.begin == found.end) {
    return at::empty(found.shape, options);
  }
  unsigned char* data = bytes() + data_offset_ + found.begin;
  const std::uint64_t size = found.end - found.begin;
  if (found.dtype == at::kBool) {
    check_bool_bytes(data, size, path_.string(), name);
  }
  if (reinterpret_cast<std::uintptr_t>(data) % c10::elementSize(found.dtype) != 0) {
    at::Tensor copy = at::empty(found.shape, options);
    std::copy_n(data, size, static_cast<unsigned char*>(copy.data_ptr()));
    return copy;
  }
  return at::from_blob(
      data, found.shape, [file = file_](void*) {}, options);
}

TensorMap SafetensorsFile::tensors() const {
  TensorMap result;
  for (const auto& named : entries_) {
    result[named.first] = tensor(named.first);
  }
  return result;
}

namespace {

using NamedTensor = std::pair<const std::string, at::Tensor>;

/// The tensors in the order of the file.
std::vector<const NamedTensor*> file_order(const TensorMap& tensors, const std::string& file) {
  std::vector<const NamedTensor*> order;
  for (const auto& named : tensors) {
    const auto& [name, tensor] = named;
    if (!tensor.defined() || tensor.layout() != at::kStrided) {
      fail("{}: tensor '{}' has no dense values to write", file, name);
    }
    order.push_back(&named);
  }
  std::stable_sort(order.begin(), order.end(), [](const NamedTensor* left, const NamedTensor* right) {
    return dtype_rank(left->second.scalar_type()) < dtype_rank(right->second.scalar_type());
  });
  return order;
}

}  // namespace

std::string safetensors_format::header_of(const std::vector<HeaderEntry>& tensors, const StringMap& metadata,
                                          const std::string& file, std::uint64_t size) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) {
    header[kMetadataKey] = metadata;
  }
  std::uint64_t offset = 0;
  for (const auto& [name, dtype, shape] : tensors) {
    if (name == kMetadataKey) {
      fail("{}: a tensor can't be named '{}'", file, name);
    }
    if (dtype_rank(dtype) == kDtypes.size()) {
      fail("{}: tensor '{}': dtype {} has no name in the format", file, name, c10::toString(dtype));
    }
    const std::uint64_t end =
        offset + static_cast<std::uint64_t>(c10::multiply_integers(shape)) * c10::elementSize(dtype);
    header[name] = {
        {"dtype", kDtypes[dtype_rank(dtype)].name}, {"shape", shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string json;
  try {
    json = header.dump();
  } catch (const Json::exception& error) {
    fail("{}: the names or metadata can't be written as JSON: {}", file, shortened(error.what()));
  }
  const std::uint64_t length = size == 0 ? (json.size() + 7) / 8 * 8 : size - kLengthSize;
  const std::uint64_t allowed = std::min(length, kMaxHeaderSize);
  if (json.size() > allowed || length > kMaxHeaderSize) {
    fail("{}: the header would have {} bytes, at most {} are allowed", file, std::max(length, json.size()),
         allowed);
  }
  json.resize(length, ' ');
  std::string result;
  for (std::uint64_t rest = length, i = 0; i < kLengthSize; ++i, rest >>= 8) {
    result.push_back(static_cast<char>(rest & 0xff));
  }
  return result + json;
}

void write_safetensors(const std::filesystem::path& path, const TensorMap& tensors,
                       const StringMap& metadata) {
  const auto order = file_order(tensors, path.string());
  std::vector<HeaderEntry> described;
  for (const NamedTensor* named : order)
    described.push_back({named->first, named->second.scalar_type(), named->second.sizes().vec()});
  const std::string header = header_of(described, metadata, path.string());
  AtomicFile file(path);
  file.write(header);
  for (const NamedTensor* named : order) {
    // One tensor at a time: a copy of all would double the memory of a large model.
    const at::Tensor dense = named->second.detach().resolve_conj().resolve_neg().to(at::kCPU).contiguous();
    file.write(dense.const_data_ptr(), dense.nbytes());
  }
  file.commit();
}

}  // namespace tessera
