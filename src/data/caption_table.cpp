#include "data/caption_table.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "core/error.h"
#include "core/file_kind.h"
#include "core/regular_file.h"
#include "core/text_file.h"
#include "core/utf8.h"
#include "data/captions.h"
#include "data/separated_values.h"
#include "data/table_columns.h"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

using Texts = std::vector<std::string>;

/// Rows that are left out are named, but no more of a table than this.
constexpr std::int64_t kRowsNamed = 5;

}  // namespace

bool begins_like_caption_table(std::string_view text, const TableConfig& options) {
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  const std::string_view line = text.substr(0, text.find_first_of("\r\n"));
  bool is_one = false;
  try {
    read_rows(line, separator_of(line), [&](const TableRow& row) {
      columns_of(row.fields, options);
      is_one = true;
    });
  } catch (const Error&) {
  }
  return is_one;
}

class CaptionTable::Reading {
 public:
  Reading(CaptionTable& tables, const TableConfig& options, const Logger& logger)
      : tables_(tables), options_(options), logger_(*logger), table_(tables.tables_.back()) {}

  void run() {
    const std::string text = read_text_file(table_.path);
    if (recognise_file(text).kind == FileKind::kWebPage) {
      refuse_other_kind(text, table_.path.string(), "table of captions");
    }
    const std::size_t before = tables_.entries_.size();
    read_rows(text, separator_of(text), [&](const TableRow& row) { add(row); });
    if (left_out_ > kRowsNamed) {
      logger_.warn("{}: left out, {} more such rows", table_.path.string(), left_out_ - kRowsNamed);
    }
    if (tables_.entries_.size() == before) {
      fail("{}: no picture with a caption among {} rows{}", table_.path.string(), rows_,
           first_left_out_.empty() ? "" : "; the first: " + first_left_out_);
    }
    logger_.info("{}: {} captions of {} pictures; {}", table_.path.string(), captions_,
                 tables_.entries_.size() - before, columns_text(columns_, first_row_));
  }

 private:
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

  struct Picture {
    bool is_there = false;
    std::size_t entry = kNone;
    std::int64_t line = 0;  ///< of the row that its entry began with
  };

  std::string where(std::int64_t line) const { return fmt::format("{}:{}", table_.path.string(), line); }

  void add(const TableRow& row) {
    if (first_row_.empty()) {
      first_row_ = row.fields;
      try {
        columns_ = columns_of(first_row_, options_);
      } catch (const Error& error) {
        fail("{}: {}", where(row.line), error.what());
      }
      if (columns_.has_header) return;
    }
    ++rows_;
    if (const std::string reason = take(row); !reason.empty()) leave_out(row.line, reason);
  }

  void leave_out(std::int64_t line, const std::string& reason) {
    ++tables_.damage_.incomplete_samples;
    const std::string text = fmt::format("{}: {}", where(line), reason);
    if (first_left_out_.empty()) first_left_out_ = text;
    if (tables_.damage_.first_keys.size() < static_cast<std::size_t>(kRowsNamed)) {
      tables_.damage_.first_keys.push_back(text);
    }
    if (++left_out_ <= kRowsNamed) logger_.warn("{}; left out", text);
  }

  /// Why the row can't be used; empty: it is.
  std::string take(const TableRow& row) {
    const Texts& fields = row.fields;
    if (row.broken) return "its quotes are neither paired nor part of its text";
    if (fields.size() <= std::max(columns_.image, columns_.caption)) {
      return fmt::format("has {} fields, the first row {}", fields.size(), columns_.count);
    }
    const auto is_text = [](const std::string& field) { return !field.empty(); };
    if (fields.size() > columns_.count &&
        std::any_of(fields.begin() + static_cast<std::ptrdiff_t>(columns_.count), fields.end(), is_text)) {
      return fmt::format(
          "has {} fields, the first row {}; text with the separator in it needs quotes around it",
          fields.size(), columns_.count);
    }
    const std::string key = picture_path(fields[columns_.image]);
    if (key.empty()) return "names no picture";
    const auto [at, is_new] = pictures_.try_emplace((table_.folder / key).lexically_normal().string());
    Picture& picture = at->second;
    if (is_new) {
      std::error_code error;
      picture.is_there = fs::is_regular_file(at->first, error);
      if (!picture.is_there) return fmt::format("there is no picture '{}'", at->first);
    }
    if (!picture.is_there) return {};  // counted when it was first named
    const std::string_view caption = trimmed(fields[columns_.caption]);
    if (caption.empty()) return "has no caption";
    if (!is_utf8(caption)) return "its caption is no UTF-8";
    return add_caption(picture, key, image_id_of(fields), std::string(caption), row.line);
  }

  /// Empty where the table gives none.
  std::string image_id_of(const Texts& fields) const {
    if (!columns_.image_id || fields.size() <= *columns_.image_id) return {};
    return fields[*columns_.image_id];
  }

  std::string add_caption(Picture& picture, const std::string& key, const std::string& image_id,
                          std::string caption, std::int64_t line) {
    if (!is_utf8(image_id)) return "its image_id is no UTF-8";
    if (picture.entry == kNone) {
      picture.entry = tables_.entries_.size();
      picture.line = line;
      tables_.entries_.push_back({key, image_id.empty() ? key : image_id, {}, tables_.tables_.size() - 1});
    }
    Entry& entry = tables_.entries_[picture.entry];
    if (!image_id.empty() && image_id != entry.image_id) {
      return fmt::format("gives '{}' the image_id '{}', line {} gave it '{}'", key, image_id, picture.line,
                         entry.image_id);
    }
    entry.captions.push_back(std::move(caption));
    ++captions_;
    return {};
  }

  CaptionTable& tables_;
  const TableConfig& options_;
  spdlog::logger& logger_;
  const Table& table_;
  Texts first_row_;
  TableColumns columns_;
  std::unordered_map<std::string, Picture> pictures_;  ///< by path
  std::int64_t rows_ = 0;
  std::int64_t captions_ = 0;
  std::int64_t left_out_ = 0;
  std::string first_left_out_;
};

std::shared_ptr<const CaptionTable> CaptionTable::open(const std::vector<fs::path>& tables,
                                                       const TableConfig& options, const Logger& logger) {
  std::shared_ptr<CaptionTable> opened(new CaptionTable());
  for (const fs::path& path : tables) {
    opened->tables_.push_back({path, options.folder.empty() ? path.parent_path() : fs::path(options.folder)});
    Reading(*opened, options, logger).run();
  }
  opened->warn_of_shared_keys(logger);
  return opened;
}

void CaptionTable::warn_of_shared_keys(const Logger& logger) const {
  std::unordered_map<std::string_view, std::size_t> table_of_id;
  for (const Entry& entry : entries_) {
    const Table& first = tables_[table_of_id.try_emplace(entry.image_id, entry.table).first->second];
    const Table& table = tables_[entry.table];
    if (entry.image_id != entry.key || first.folder == table.folder) continue;
    logger->warn(
        "'{}' is a picture of {} and another one of {}; without a column of image ids such pictures count as "
        "the same image",
        entry.key, first.path.string(), table.path.string());
    return;
  }
}

const CaptionTable::Entry& CaptionTable::entry(std::int64_t index) const {
  TORCH_CHECK_INDEX(index >= 0 && index < size(), "sample ", index, " of a table of ", size());
  return entries_[static_cast<std::size_t>(index)];
}

const std::string& CaptionTable::key(std::int64_t index) const { return entry(index).key; }

Sample CaptionTable::read_captions(std::int64_t index) const {
  const Entry& entry = this->entry(index);
  return {entry.key, tables_[entry.table].path.string(), entry.image_id, entry.captions, {}};
}

Sample CaptionTable::read(std::int64_t index) const {
  Sample sample = read_captions(index);
  sample.image = RegularFile(tables_[entry(index).table].folder / sample.key).read();
  return sample;
}

nlohmann::json CaptionTable::read_json(std::int64_t) const { return nullptr; }

}  // namespace tessera::data
