#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/logging.h"
#include "data/data_config.h"
#include "data/source.h"

namespace tessera::data {

/// Whether a text begins with a row that CaptionTable knows without being told of columns: a header of the
/// usual names, or a picture's name and its caption. With columns named in `options`: a header that has them.
bool begins_like_caption_table(std::string_view text, const TableConfig& options);

/// The pictures of tables of separated values (separated_values.h), a row for each caption: `image` and
/// `caption`, and optionally `image_id`, under a header or, without one, in the first two columns. Which
/// columns these are, `options` says, or else the usual names in a header do, in any case. Rows of one
/// picture make one sample; it stands where the first of them does, and its key is the picture's path as that
/// row writes it. Its image_id is the column's, or the key. A caption's number behind a path ("a.jpg#0", as
/// Flickr8k.token.txt has it) is dropped.
///
/// Paths are relative to `options.folder`, or to the table's own. Captions are kept in memory; a picture is
/// opened when it is read. A row without path or caption, with too few fields or more than the first row,
/// with quotes that nobody can make sense of, with text that is no UTF-8, or with another image_id than the
/// picture has, is left out and counts as an incomplete sample; so does a picture that is not there, once.
/// The log names the first of each table by line.
class CaptionTable : public Source {
 public:
  /// @throws Error naming the table: it can't be read, has no such column (with those that it has), its first
  /// row says not which columns to take, or nothing in it is usable
  static std::shared_ptr<const CaptionTable> open(const std::vector<std::filesystem::path>& tables,
                                                  const TableConfig& options, const Logger& logger);

  std::int64_t size() const override { return static_cast<std::int64_t>(entries_.size()); }
  const std::string& key(std::int64_t index) const override;
  const Damage& damage() const override { return damage_; }

  Sample read(std::int64_t index) const override;
  Sample read_captions(std::int64_t index) const override;
  /// Null: a table has no more about a sample.
  nlohmann::json read_json(std::int64_t index) const override;

 private:
  class Reading;  ///< of one table, while it is opened

  struct Table {
    std::filesystem::path path;
    std::filesystem::path folder;  ///< of its pictures
  };
  struct Entry {
    std::string key;
    std::string image_id;
    std::vector<std::string> captions;
    std::size_t table = 0;
  };

  CaptionTable() = default;
  void warn_of_shared_keys(const Logger& logger) const;
  const Entry& entry(std::int64_t index) const;

  std::vector<Table> tables_;
  std::vector<Entry> entries_;
  Damage damage_;
};

}  // namespace tessera::data
