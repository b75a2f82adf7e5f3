#include "core/archive.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "core/json_file.h"

namespace tessera {

namespace {

constexpr const char* kKindKey = "tessera_archive";
constexpr const char* kStateKey = "state";

const std::string& required(const StringMap& metadata, const std::string& key, const std::string& source) {
  const auto found = metadata.find(key);
  if (found == metadata.end()) {
    fail("{}: is no Tessera archive: metadata '{}' is missing", source, key);
  }
  return found->second;
}

}  // namespace

Archive Archive::read(const std::filesystem::path& path, const std::string& kind) {
  const SafetensorsFile file(path);
  Archive archive;
  archive.source_ = path.string();
  const std::string& found = required(file.metadata(), kKindKey, archive.source_);
  if (found != kind) {
    fail("{}: expected an archive of kind '{}', found '{}'", archive.source_, kind, found);
  }
  archive.json_ = parse_json(required(file.metadata(), kStateKey, archive.source_),
                             archive.source_ + ": metadata 'state'");
  archive.tensors_ = file.tensors();
  return archive;
}

void Archive::write(const std::filesystem::path& path, const std::string& kind) const {
  std::string state;
  try {
    state = json_.dump();
  } catch (const nlohmann::json::exception& error) {
    fail("{}: the state can't be written as JSON: {}", path.string(), error.what());
  }
  write_safetensors(path, tensors_, {{kKindKey, kind}, {kStateKey, state}});
}

at::Tensor Archive::get(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    fail("{}: tensor '{}' is missing", source_, name);
  }
  return found->second.detach().clone();
}

}  // namespace tessera
