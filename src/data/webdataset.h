#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/logging.h"
#include "core/regular_file.h"
#include "data/file_names.h"
#include "data/source.h"
#include "data/tar_index.h"

namespace tessera::data {

/// The samples of WebDataset shards: members of a tar that share a key form a sample, an image (.jpg, .jpeg,
/// .png, .webp) and its captions: .json with `captions` (list) or `caption` (string) and optionally
/// `image_id` (string or integer), or .txt with one caption a line. Where both are there, .txt serves if
/// .json has no captions.
///
/// The key is the name up to the last dot of its last part, so that a name may have dots ("photo v1.7.png"
/// beside "photo v1.7.txt"). What goes on after the key of a whole sample with further dots belongs to that
/// sample by WebDataset's rule (a key ends at the first dot) and is not read: "a.seg.png" beside "a.jpg" and
/// "a.json". Archives joined in one file have keys of their own.
///
/// What is left out (hidden files, other kinds, further extensions, links) is counted in a line of the log,
/// the first incomplete samples of a shard are named. The tars are indexed once, and stay open.
class WebDataset : public Source {
 public:
  /// Every damage is logged with its file and key or position.
  /// @throws Error naming the shard: absent, no tar, or without a single sample
  static std::shared_ptr<const WebDataset> open(const std::vector<std::filesystem::path>& shards,
                                                const Logger& logger);

  std::int64_t size() const override { return static_cast<std::int64_t>(entries_.size()); }
  const std::string& key(std::int64_t index) const override;
  const Damage& damage() const override { return damage_; }

  /// The key is the name of its members without what makes them a picture or captions.
  /// @throws Error naming shard and key where the captions are broken or empty, or the shard has become
  /// shorter
  Sample read(std::int64_t index) const override;
  Sample read_captions(std::int64_t index) const override;
  /// The whole of the sample's .json; null where it has none.
  /// @throws Error naming shard and key where it is no JSON object
  nlohmann::json read_json(std::int64_t index) const override;

 private:
  struct Extent {
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
    bool present = false;
  };
  struct Entry {
    std::string key;
    std::size_t shard = 0;
    std::size_t archive = 0;  ///< of those joined in the shard
    Extent image;
    Extent json;
    Extent text;
    std::int64_t members = 0;
    bool repeated = false;

    bool has_captions() const { return json.present || text.present; }
    bool is_whole() const { return image.present && has_captions() && !repeated; }
  };

  WebDataset() = default;
  void add_shard(const std::filesystem::path& path, const Logger& logger);
  /// The samples of one shard, incomplete ones too; counts what isn't used.
  std::vector<Entry> group_by_key(const std::vector<TarMember>& members, LeftOut& not_used);
  void warn_of_shared_keys(const Logger& logger) const;
  const Entry& entry(std::int64_t index) const;
  std::string content(const Entry& entry, const Extent& extent) const;
  std::string name_of(const Entry& entry) const;

  std::vector<RegularFile> shards_;
  std::vector<Entry> entries_;
  Damage damage_;
  LeftOut not_used_;
  LeftOut ambiguous_;  ///< pairs of a picture and captions whose names say that they belong to another sample
};

}  // namespace tessera::data
