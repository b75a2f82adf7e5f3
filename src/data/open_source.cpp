#include "data/open_source.h"

#include <filesystem>
#include <fstream>

#include "core/error.h"
#include "core/file_kind.h"
#include "data/caption_table.h"
#include "data/file_names.h"
#include "data/file_pattern.h"
#include "data/webdataset.h"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

/// What a form is recognised by.
struct NamedFile {
  fs::path path;
  std::string extension;  ///< in lower case, without its dot
  std::string beginning;  ///< of its content; empty for a folder
  bool is_folder = false;
};

struct SourceForm {
  const char* name;
  const char* looks;  ///< "a .tar": what a user may name
  /// What says that a file is of this form; empty: nothing does.
  std::string (*recognise)(const NamedFile& file, const DataConfig& options);
  std::shared_ptr<const Source> (*open)(const std::vector<fs::path>& files, const DataConfig& options,
                                        const Logger& logger);
};

std::string recognise_shard(const NamedFile& file, const DataConfig&) {
  if (recognise_file(file.beginning).kind == FileKind::kTar) return "its content is a tar";
  return !file.is_folder && file.extension == "tar" ? "its name ends in .tar" : "";
}

std::string recognise_table(const NamedFile& file, const DataConfig& options) {
  if (file.is_folder) return "";
  if (file.extension == "csv" || file.extension == "tsv") return "its name ends in ." + file.extension;
  if (recognise_file(file.beginning).kind != FileKind::kText) return "";
  return begins_like_caption_table(file.beginning, options.table) ? "its first row says so" : "";
}

/// The first that recognises a file opens it.
constexpr SourceForm kForms[] = {
    {"WebDataset shards", "a .tar", recognise_shard,
     [](const std::vector<fs::path>& files, const DataConfig&,
        const Logger& logger) -> std::shared_ptr<const Source> { return WebDataset::open(files, logger); }},
    {"a table of captions", "a .csv or .tsv", recognise_table,
     [](const std::vector<fs::path>& files, const DataConfig& options, const Logger& logger)
         -> std::shared_ptr<const Source> { return CaptionTable::open(files, options.table, logger); }},
};

NamedFile look_at(const fs::path& path) {
  constexpr std::size_t kBeginning = 4096;
  NamedFile file{path, lower_extension(path.string()), {}, fs::is_directory(path)};
  if (file.is_folder) return file;
  file.beginning.resize(kBeginning);
  std::ifstream stream(path, std::ios::binary);
  stream.read(file.beginning.data(), static_cast<std::streamsize>(file.beginning.size()));
  // One that can't be read is told so by whoever opens it for its name.
  file.beginning.resize(static_cast<std::size_t>(stream.gcount()));
  return file;
}

struct Recognised {
  const SourceForm* form;
  std::string reason;
};

Recognised recognise(const fs::path& path, const DataConfig& options) {
  const NamedFile file = look_at(path);
  std::string known;
  for (const SourceForm& form : kForms) {
    if (std::string reason = form.recognise(file, options); !reason.empty())
      return {&form, std::move(reason)};
    known += fmt::format("{}{} ({})", known.empty() ? "" : " or ", form.name, form.looks);
  }
  const std::string kind = file.is_folder ? "a folder" : other_kind(file.beginning);
  fail("{}: expected images with captions as {}{}", path.string(), known,
       kind.empty() ? "" : fmt::format(", found {}", kind));
}

}  // namespace

std::shared_ptr<const Source> open_source(const std::vector<std::string>& patterns, const DataConfig& options,
                                          const Logger& logger) {
  if (patterns.empty()) fail("no data: the list of patterns is empty");
  const std::vector<fs::path> files = expand_patterns(patterns);
  const Recognised first = recognise(files.front(), options);
  for (std::size_t i = 1; i < files.size(); ++i) {
    const fs::path& file = files[i];
    const Recognised other = recognise(file, options);
    if (other.form == first.form) continue;
    fail("{}: {} ({}), but {}: {} ({}); a list names data of one form", files.front().string(),
         first.form->name, first.reason, file.string(), other.form->name, other.reason);
  }
  logger->info("data: {}: {} ({}){}", files.front().string(), first.form->name, first.reason,
               files.size() == 1 ? "" : fmt::format(", and {} more", files.size() - 1));
  return first.form->open(files, options, logger);
}

}  // namespace tessera::data
