// The file of a MemoryStore: one safetensors file.
//
//   prior_mean  F32 [K, C]    codes        F32 [N, C], row i of entry i
//   memory      F64 [K, C]    accumulator  F64 [K, K]
//   metadata: format, format_version, model (fingerprint), entries (JSON: [{"id", "caption", "image"}, …])

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/json_file.h"
#include "core/safetensors.h"
#include "memory/memory_store.h"

namespace tessera::memory {

namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "tessera-memory";
constexpr const char* kVersion = "1";
// Of the normal equations that the file's arrays have to satisfy; rounding leaves less than 1e-9.
constexpr double kAgreement = 1e-6;

const std::string& metadata(const SafetensorsFile& file, const std::string& key, const std::string& path) {
  const auto found = file.metadata().find(key);
  if (found == file.metadata().end()) {
    fail("{}: is no memory file: its metadata has no '{}' (expected format {})", path, key, kFormat);
  }
  return found->second;
}

/// @return the fingerprint of the file's model
std::string check_kind(const SafetensorsFile& file, const std::optional<std::string>& fingerprint,
                       const std::string& path) {
  const std::string& format = metadata(file, "format", path);
  if (format != kFormat) fail("{}: is no memory file: expected format {}, found {}", path, kFormat, format);
  const std::string& version = metadata(file, "format_version", path);
  if (version != kVersion) {
    fail("{}: is a memory file of version {}; this program reads version {}", path, version, kVersion);
  }
  const std::string& model = metadata(file, "model", path);
  if (fingerprint && model != *fingerprint) {
    fail(
        "{}: was written with model {}, but the model in use is {}; the codes of one mean nothing to the "
        "other",
        path, model, *fingerprint);
  }
  return model;
}

std::string member(const Json& entry, const char* key, std::size_t place, const std::string& path) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_string()) {
    fail("{}: entries[{}]: '{}' has to be a string, found {}", path, place, key,
         found == entry.end() ? "none" : found->type_name());
  }
  return found->get<std::string>();
}

std::vector<MemoryEntry> parse_entries(const std::string& text, const std::string& path) {
  const Json list = parse_json(text, fmt::format("{}: entries", path));
  if (!list.is_array()) fail("{}: entries have to be a list, found {}", path, list.type_name());
  std::vector<MemoryEntry> entries;
  std::set<std::string> ids;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_object() || list[i].size() != 3) {
      fail("{}: entries[{}] has to be an object of id, caption and image", path, i);
    }
    entries.push_back({member(list[i], "id", i, path), member(list[i], "caption", i, path),
                       member(list[i], "image", i, path)});
    const std::string& id = entries.back().id;
    if (id.empty()) fail("{}: entries[{}]: the id is empty", path, i);
    if (!ids.insert(id).second) fail("{}: entries[{}]: id '{}' is given twice", path, i, id);
  }
  return entries;
}

/// A copy of a tensor of the file, which must have this dtype and shape and be finite; -1 stands for any
/// size.
at::Tensor read_tensor(const SafetensorsFile& file, const std::string& name, at::ScalarType dtype,
                       const std::vector<std::int64_t>& shape, const std::string& path) {
  const std::vector<std::int64_t> found = file.shape(name);
  bool fits = file.dtype(name) == dtype && found.size() == shape.size();
  for (std::size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == found[i];
  if (!fits) {
    fail("{}: tensor '{}': expected {} [{}] (-1: any), found {} [{}]", path, name, c10::toString(dtype),
         fmt::join(shape, ", "), c10::toString(file.dtype(name)), fmt::join(found, ", "));
  }
  at::Tensor values = file.tensor(name).clone();
  if (!values.isfinite().all().item<bool>())
    fail("{}: tensor '{}' holds values that are not finite", path, name);
  return values;
}

}  // namespace

void MemoryStore::save(const std::filesystem::path& path) const {
  Json list = Json::array();
  for (const MemoryEntry& entry : entries_) {
    list.push_back({{"id", entry.id}, {"caption", entry.caption}, {"image", entry.image}});
  }
  write_safetensors(
      path,
      {{"prior_mean", prior_mean_}, {"memory", memory_}, {"accumulator", accumulator_}, {"codes", codes_}},
      {{"format", kFormat}, {"format_version", kVersion}, {"model", fingerprint_}, {"entries", list.dump()}});
}

MemoryStore MemoryStore::load(const std::filesystem::path& path,
                              const std::optional<std::string>& fingerprint) {
  const c10::NoGradGuard no_grad;
  const std::string name = path.string();
  const SafetensorsFile file(path);
  const std::string model = check_kind(file, fingerprint, name);
  const at::Tensor prior_mean = read_tensor(file, "prior_mean", at::kFloat, {-1, -1}, name);
  const std::int64_t slots = prior_mean.size(0);
  const std::int64_t code_size = prior_mean.size(1);
  if (slots < 1 || slots >= code_size) {
    fail("{}: tensor 'prior_mean': expected fewer rows than columns and at least one, found [{}, {}]", name,
         slots, code_size);
  }
  std::vector<MemoryEntry> entries = parse_entries(metadata(file, "entries", name), name);
  MemoryStore store(prior_mean, model);
  store.memory_ = read_tensor(file, "memory", at::kDouble, {slots, code_size}, name);
  store.accumulator_ = read_tensor(file, "accumulator", at::kDouble, {slots, slots}, name);
  store.codes_ =
      read_tensor(file, "codes", at::kFloat, {static_cast<std::int64_t>(entries.size()), code_size}, name);
  if (file.names().size() != 4) {
    fail("{}: expected the tensors prior_mean, memory, accumulator, codes, found {}", name,
         fmt::join(file.names(), ", "));
  }
  check_scale(store.codes_, fmt::format("a row of tensor 'codes' of {}", name));
  store.entries_ = std::move(entries);
  store.check_agreement(name);
  return store;
}

/// The arrays determine one another: a file whose bytes were damaged inside an array is noticed here.
void MemoryStore::check_agreement(const std::string& file) const {
  const at::Tensor rows = codes_.to(at::kDouble);
  const at::Tensor keys = addresses(rows);
  const Solution expected = solve_anew();
  const auto distance = [](const at::Tensor& left, const at::Tensor& right) {
    return (left - right).norm().item<double>();
  };
  if (!(distance(accumulator_, expected.accumulator) <=
        kAgreement * expected.accumulator.norm().item<double>())) {
    fail("{}: is damaged: 'accumulator' is not that of the codes", file);
  }
  // The residual of A·M = Wᵀz rather than M itself, which near capacity is known to few digits.
  const at::Tensor right = keys.mT().matmul(rows);
  const double scale =
      accumulator_.norm().item<double>() * memory_.norm().item<double>() + right.norm().item<double>();
  if (!(distance(accumulator_.matmul(memory_), right) <= kAgreement * scale)) {
    fail("{}: is damaged: 'memory' is not that of the codes", file);
  }
}

}  // namespace tessera::memory
