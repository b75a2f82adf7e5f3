#include "data/webdataset.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <unordered_set>

#include "core/error.h"
#include "core/mapped_file.h"
#include "data/captions.h"

namespace tessera::data {
namespace {

constexpr std::size_t kNamesKept = 5;

/// Samples that are left out are named, but no more of a shard than this.
constexpr std::int64_t kNamedOfAShard = 5;

std::string_view without_dot_slash(std::string_view name) {
  while (name.substr(0, 2) == "./") name.remove_prefix(2);
  return name;
}

/// Where a name has its next dot from `at` on, but for a first letter; npos: nowhere.
std::size_t next_dot(std::string_view key, std::size_t at) {
  const std::size_t slash = key.rfind('/');
  return key.find('.', std::max(at, slash == std::string_view::npos ? 1 : slash + 2));
}

std::string qualified(std::size_t archive, std::string_view key) {
  return fmt::format("{}/{}", archive, key);
}

}  // namespace

std::shared_ptr<const WebDataset> WebDataset::open(const std::vector<std::filesystem::path>& shards,
                                                   const Logger& logger) {
  std::shared_ptr<WebDataset> dataset(new WebDataset());
  for (const auto& path : shards) dataset->add_shard(path, logger);
  if (!dataset->not_used_.empty()) {
    logger->info("members of shards that are not used: {}", dataset->not_used_.text());
  }
  if (!dataset->ambiguous_.empty()) {
    logger->warn("left out: {}; the first dot ends a key of WebDataset's, so rename them to use them",
                 dataset->ambiguous_.text());
  }
  dataset->warn_of_shared_keys(logger);
  return dataset;
}

std::vector<WebDataset::Entry> WebDataset::group_by_key(const std::vector<TarMember>& members,
                                                        LeftOut& not_used) {
  std::vector<Entry> groups;
  std::unordered_map<std::string, std::size_t> by_key;
  const std::size_t below = common_folder(members).size();
  for (const auto& member : members) {
    const std::string_view name = without_dot_slash(member.name);
    const std::string extension = lower_extension(name);
    const bool image = is_image_extension(extension);
    if (is_hidden(std::string_view(member.name).substr(below))) {
      not_used.add("hidden", member.name);
      continue;
    }
    if (!image && extension != "json" && extension != "txt") {
      not_used.add_kind(name);
      continue;
    }
    const std::string_view key = name.substr(0, name.size() - extension.size() - 1);
    const auto [at, inserted] = by_key.try_emplace(qualified(member.archive, key), groups.size());
    if (inserted) groups.push_back(Entry{std::string(key), shards_.size(), member.archive});
    Entry& entry = groups[at->second];
    Extent& extent = image ? entry.image : extension == "json" ? entry.json : entry.text;
    entry.repeated = entry.repeated || extent.present;
    extent = Extent{member.offset, member.size, true};
    ++entry.members;
  }

  std::vector<Entry> kept;
  for (Entry& entry : groups) {
    // The shortest name that makes a whole sample is WebDataset's key; of one that lacks something, a longer
    // name that lacks something too is a part rather than another loss.
    const Entry* owner = nullptr;
    for (std::size_t dot = next_dot(entry.key, 0); dot != std::string::npos && owner == nullptr;
         dot = next_dot(entry.key, dot + 1)) {
      const auto shorter = by_key.find(qualified(entry.archive, std::string_view(entry.key).substr(0, dot)));
      if (shorter == by_key.end()) continue;
      const Entry& candidate = groups[shorter->second];
      if (candidate.is_whole() || !entry.is_whole()) owner = &candidate;
    }
    if (owner == nullptr) {
      kept.push_back(entry);
    } else if (entry.is_whole()) {
      ambiguous_.add("pairs whose name is another sample's key and goes on with a dot",
                     fmt::format("{} after {}", entry.key, owner->key));
    } else {
      not_used.add("further files of a sample", entry.key, entry.members);
    }
  }
  return kept;
}

void WebDataset::add_shard(const std::filesystem::path& path, const Logger& logger) {
  RegularFile file(path);
  const TarIndex index = index_tar(MappedFile(file));
  for (const auto& broken : index.breaks) {
    ++damage_.breaks;
    logger->warn("{}: broken at byte {}: {}; {} bytes are left out; the samples that can be read are used",
                 path.string(), broken.offset, broken.what, broken.left_out);
  }
  LeftOut not_used = left_out_of(index);
  const std::size_t before = entries_.size();
  std::int64_t incomplete = 0;
  for (auto& entry : group_by_key(index.members, not_used)) {
    if (entry.is_whole()) {
      entries_.push_back(std::move(entry));
      continue;
    }
    const std::string name = fmt::format("{}: {}", path.string(), entry.key);
    if (damage_.first_keys.size() < kNamesKept) damage_.first_keys.push_back(name);
    if (++incomplete > kNamedOfAShard) continue;
    logger->warn("{}: left out, {}", name,
                 entry.repeated         ? "has two images or two caption files of one kind"
                 : !entry.image.present ? "has no image (.jpg, .jpeg, .png, .webp)"
                                        : "has no captions (.json or .txt)");
  }
  if (incomplete > kNamedOfAShard) {
    logger->warn("{}: left out, {} more such samples", path.string(), incomplete - kNamedOfAShard);
  }
  damage_.incomplete_samples += incomplete;
  if (entries_.size() == before) {
    fail("{}: no sample among {} files; a sample is KEY.jpg (.jpeg, .png, .webp) with KEY.json or KEY.txt{}",
         path.string(), index.members.size(), not_used.empty() ? "" : "; not used: " + not_used.text());
  }
  not_used_.add(not_used);
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
      "{} keys occur in several shards or archives, '{}' in {} and {}; without an image_id in their .json "
      "such samples count as the same image",
      shared, example->key, shards_[shard_of_key.at(example->key)].path().string(),
      shards_[example->shard].path().string());
}

const WebDataset::Entry& WebDataset::entry(std::int64_t index) const {
  TORCH_CHECK_INDEX(index >= 0 && index < size(), "sample ", index, " of a dataset of ", size());
  return entries_[static_cast<std::size_t>(index)];
}

const std::string& WebDataset::key(std::int64_t index) const { return entry(index).key; }

std::string WebDataset::content(const Entry& entry, const Extent& extent) const {
  const std::vector<std::byte> bytes = shards_[entry.shard].read(extent.offset, extent.size);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// "SHARD: KEY", for messages.
std::string WebDataset::name_of(const Entry& entry) const {
  return fmt::format("{}: {}", shards_[entry.shard].path().string(), entry.key);
}

Sample WebDataset::read_captions(std::int64_t index) const {
  const Entry& entry = this->entry(index);
  Sample sample;
  sample.key = entry.key;
  sample.file = shards_[entry.shard].path().string();
  const std::string name = name_of(entry);
  CaptionRecord record;
  if (entry.json.present) record = captions_from_json(content(entry, entry.json), name + ".json");
  if (record.captions.empty() && entry.text.present) {
    record.captions = captions_from_text(content(entry, entry.text), name + ".txt");
  }
  if (record.captions.empty() && !record.unusable.empty()) fail("{}", record.unusable);
  if (record.captions.empty()) fail("{}: has no caption, or only empty ones", name);
  sample.captions = std::move(record.captions);
  sample.image_id = record.image_id.empty() ? entry.key : std::move(record.image_id);
  return sample;
}

Sample WebDataset::read(std::int64_t index) const {
  Sample sample = read_captions(index);
  const Entry& entry = this->entry(index);
  sample.image = shards_[entry.shard].read(entry.image.offset, entry.image.size);
  return sample;
}

nlohmann::json WebDataset::read_json(std::int64_t index) const {
  const Entry& entry = this->entry(index);
  if (!entry.json.present) return nullptr;
  return json_object(content(entry, entry.json), name_of(entry) + ".json");
}

}  // namespace tessera::data
