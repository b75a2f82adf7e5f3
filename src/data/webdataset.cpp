#include "data/webdataset.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "data/captions.h"
#include "data/shard_pattern.h"

namespace tessera::data {
namespace {

constexpr std::size_t kNamesKept = 5;

struct MemberName {
  std::string key;
  std::string extension;  ///< lower case, without the dot
};

std::optional<MemberName> split_name(std::string_view name) {
  while (name.substr(0, 2) == "./") name.remove_prefix(2);
  const std::size_t base = name.rfind('/') == std::string_view::npos ? 0 : name.rfind('/') + 1;
  const std::size_t dot = name.find('.', base);
  // A leading dot marks hidden files, such as the "._NAME" that macOS puts beside every file.
  if (dot == std::string_view::npos || dot == base) return std::nullopt;
  MemberName result{std::string(name.substr(0, dot)), std::string(name.substr(dot + 1))};
  std::transform(result.extension.begin(), result.extension.end(), result.extension.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

bool is_image(const std::string& extension) {
  return extension == "jpg" || extension == "jpeg" || extension == "png" || extension == "webp";
}

}  // namespace

std::int64_t image_id_number(std::string_view image_id) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a, 64 bits
  for (const char c : image_id) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3u;
  }
  // FNV's high bits mix slowly for short ids; the shifts of MurmurHash3's finaliser spread them.
  hash ^= hash >> 33;
  hash *= 0xff51afd7ed558ccdu;
  hash ^= hash >> 33;
  hash *= 0xc4ceb9fe1a85ec53u;
  hash ^= hash >> 33;
  return static_cast<std::int64_t>(hash >> 1);
}

std::shared_ptr<const WebDataset> WebDataset::open(const std::vector<std::string>& patterns,
                                                   const Logger& logger) {
  if (patterns.empty()) fail("no shards: the list of patterns is empty");
  std::shared_ptr<WebDataset> dataset(new WebDataset());
  for (const auto& path : expand_shards(patterns)) dataset->add_shard(path, logger);
  dataset->warn_of_shared_keys(logger);
  return dataset;
}

std::vector<WebDataset::Entry> WebDataset::group_by_key(const std::vector<TarMember>& members,
                                                        std::size_t shard) {
  std::vector<Entry> groups;
  std::unordered_map<std::string, std::size_t> by_key;
  for (const auto& member : members) {
    const auto name = split_name(member.name);
    if (!name) continue;
    const bool image = is_image(name->extension);
    if (!image && name->extension != "json" && name->extension != "txt") continue;
    const auto [at, inserted] = by_key.try_emplace(name->key, groups.size());
    if (inserted) groups.push_back(Entry{name->key, shard});
    Entry& entry = groups[at->second];
    Extent& extent = image ? entry.image : name->extension == "json" ? entry.json : entry.text;
    entry.repeated = entry.repeated || extent.present;
    extent = Extent{member.offset, member.size, true};
  }
  return groups;
}

void WebDataset::add_shard(const std::filesystem::path& path, const Logger& logger) {
  MappedFile file(path);
  const TarIndex index = index_tar(file);
  for (const auto& broken : index.breaks) {
    ++damage_.tar_breaks;
    logger->warn("{}: broken at byte {}: {}; the samples that can be read are used", path.string(),
                 broken.offset, broken.what);
  }
  const std::size_t before = entries_.size();
  for (auto& entry : group_by_key(index.members, shards_.size())) {
    const bool captions = entry.json.present || entry.text.present;
    if (entry.image.present && captions && !entry.repeated) {
      entries_.push_back(std::move(entry));
      continue;
    }
    ++damage_.incomplete_samples;
    const std::string name = fmt::format("{}: {}", path.string(), entry.key);
    if (damage_.first_keys.size() < kNamesKept) damage_.first_keys.push_back(name);
    logger->warn("{}: left out, {}", name,
                 entry.repeated         ? "has two images or two caption files of one kind"
                 : !entry.image.present ? "has no image (.jpg, .jpeg, .png, .webp)"
                                        : "has no captions (.json or .txt)");
  }
  if (entries_.size() == before) {
    fail("{}: no sample among {} files; a sample is KEY.jpg (.jpeg, .png, .webp) with KEY.json or KEY.txt",
         path.string(), index.members.size());
  }
  shards_.push_back(std::move(file));
}

void WebDataset::warn_of_shared_keys(const Logger& logger) const {
  std::unordered_map<std::string_view, std::size_t> shard_of_key;
  std::int64_t shared = 0;
  const Entry* example = nullptr;
  for (const auto& entry : entries_) {
    if (shard_of_key.try_emplace(entry.key, entry.shard).second) continue;
    ++shared;
    if (example == nullptr) example = &entry;
  }
  if (shared == 0) return;
  logger->warn(
      "{} keys occur in several shards, '{}' in {} and {}; without an image_id in their .json such samples "
      "count as "
      "the same image",
      shared, example->key, shards_[shard_of_key.at(example->key)].path().string(),
      shards_[example->shard].path().string());
}

const WebDataset::Entry& WebDataset::entry(std::int64_t index) const {
  TORCH_CHECK_INDEX(index >= 0 && index < size(), "sample ", index, " of a dataset of ", size());
  return entries_[static_cast<std::size_t>(index)];
}

const std::string& WebDataset::key(std::int64_t index) const { return entry(index).key; }

std::string_view WebDataset::content(const Entry& entry, const Extent& extent) const {
  const Bytes bytes = shards_[entry.shard].bytes().subspan(extent.offset, extent.size);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// "SHARD: KEY", for messages.
std::string WebDataset::name_of(const Entry& entry) const {
  return fmt::format("{}: {}", shards_[entry.shard].path().string(), entry.key);
}

Sample WebDataset::read(std::int64_t index) const {
  const Entry& entry = this->entry(index);
  const MappedFile& shard = shards_[entry.shard];
  Sample sample;
  sample.key = entry.key;
  sample.shard = shard.path().string();
  sample.image = shard.bytes().subspan(entry.image.offset, entry.image.size);
  const std::string name = name_of(entry);
  CaptionRecord record;
  if (entry.json.present) record = captions_from_json(content(entry, entry.json), name + ".json");
  if (record.captions.empty() && entry.text.present) {
    record.captions = captions_from_text(content(entry, entry.text), name + ".txt");
  }
  if (record.captions.empty()) fail("{}: has no caption, or only empty ones", name);
  sample.captions = std::move(record.captions);
  sample.image_id = record.image_id.empty() ? entry.key : std::move(record.image_id);
  return sample;
}

nlohmann::json WebDataset::read_json(std::int64_t index) const {
  const Entry& entry = this->entry(index);
  if (!entry.json.present) return nullptr;
  return json_object(content(entry, entry.json), name_of(entry) + ".json");
}

}  // namespace tessera::data
