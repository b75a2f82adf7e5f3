#include "data/tar_writer.h"

#include <archive.h>
#include <archive_entry.h>

#include "core/error.h"
#include "core/files.h"

namespace tessera::data {

struct TarWriter::State {
  std::filesystem::path path;
  std::filesystem::path unfinished;
  archive* writer = archive_write_new();
  bool finished = false;

  void check(int status) const {
    if (status == ARCHIVE_OK) return;
    const char* text = archive_error_string(writer);
    fail("{}: can't be written: {}", path.string(), text != nullptr ? text : "unknown error");
  }
};

TarWriter::TarWriter(const std::filesystem::path& path) : state_(std::make_unique<State>()) {
  state_->path = path;
  state_->unfinished = path;
  state_->unfinished += ".unfinished";
  archive_write_set_format_ustar(state_->writer);
  // check() throws before the destructor can run for this object, so the writer is freed here.
  try {
    state_->check(archive_write_open_filename(state_->writer, state_->unfinished.c_str()));
  } catch (...) {
    archive_write_free(state_->writer);
    throw;
  }
}

TarWriter::~TarWriter() {
  archive_write_free(state_->writer);
  if (!state_->finished) {
    std::error_code ignored;
    std::filesystem::remove(state_->unfinished, ignored);
  }
}

void TarWriter::add(const std::string& name, std::string_view content) {
  const std::unique_ptr<archive_entry, decltype(&archive_entry_free)> entry(archive_entry_new(),
                                                                            &archive_entry_free);
  archive_entry_set_pathname(entry.get(), name.c_str());
  archive_entry_set_size(entry.get(), static_cast<la_int64_t>(content.size()));
  archive_entry_set_filetype(entry.get(), AE_IFREG);
  archive_entry_set_perm(entry.get(), 0644);
  archive_entry_set_mtime(entry.get(), 0, 0);
  state_->check(archive_write_header(state_->writer, entry.get()));
  const la_ssize_t written = archive_write_data(state_->writer, content.data(), content.size());
  if (written != static_cast<la_ssize_t>(content.size())) state_->check(ARCHIVE_FATAL);
}

void TarWriter::finish() {
  state_->check(archive_write_close(state_->writer));
  sync_to_disk(state_->unfinished);
  std::filesystem::rename(state_->unfinished, state_->path);
  state_->finished = true;
  const std::filesystem::path folder = state_->path.parent_path();
  sync_to_disk(folder.empty() ? "." : folder);
}

}  // namespace tessera::data
