#include "train/run_log.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "core/files.h"

namespace tessera::train {

namespace {

/// Keeps the lines up to a step; a torn last line (the process died while writing) goes too.
void drop_lines_after(const std::filesystem::path& path, std::int64_t step, bool validated) {
  if (!std::filesystem::is_regular_file(path)) return;  // /dev/null, a pipe: nothing to read again
  std::istringstream lines(read_file(path));
  std::string kept;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object() || record.value("step", std::int64_t{0}) > step) continue;
    const bool is_validation = record.value("type", "") == "validation";
    if (!validated && is_validation && record.value("step", std::int64_t{0}) == step) continue;
    kept += line + "\n";
  }
  write_file_atomically(path, kept);
}

/// 0, or the error.
int append_text(int descriptor, const std::string& text) {
  for (std::size_t done = 0; done < text.size();) {
    const ssize_t count = ::write(descriptor, text.data() + done, text.size() - done);
    if (count < 0 && errno != EINTR) return errno;
    if (count > 0) done += static_cast<std::size_t>(count);
  }
  return 0;
}

}  // namespace

std::string duration_text(double seconds) {
  const auto whole = static_cast<std::int64_t>(std::llround(std::max(0.0, seconds)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} min", whole / 3600, whole % 3600 / 60);
}

std::string step_line(const nlohmann::json& record) {
  std::string line =
      fmt::format("epoch {}/{} step {}/{} | loss {:.4f}", record.value("epoch", 0), record.value("epochs", 0),
                  record.value("step", 0), record.value("total_steps", 0), record.value("loss", 0.0));
  for (const auto& [key, value] : record.items()) {
    if (key.size() > 5 && key.rfind("loss_", 0) == 0) {
      line +=
          fmt::format(" {} {:.4f}", key.substr(5), value.is_number() ? value.get<double>() : std::nan(""));
    }
  }
  if (record.contains("memory_read_error")) {
    line += fmt::format(" | memory read error {:.4f}", record.value("memory_read_error", 0.0));
  }
  if (record.contains("itc_temperature")) {
    line += fmt::format(" | temperature {:.4f}", record.value("itc_temperature", 0.0));
  }
  line += fmt::format(" | {:.0f} images/s | data wait {:.0f} %", record.value("images_per_second", 0.0),
                      100.0 * record.value("data_wait_share", 0.0));
  if (record.contains("queue_in_use")) {
    line += fmt::format(" | queue {:.0f} %", 100.0 * record.value("queue_in_use", 0.0));
  }
  return line + fmt::format(" | {} left", duration_text(record.value("seconds_left", 0.0)));
}

std::string validation_line(const nlohmann::json& record) {
  return fmt::format(
      "validation epoch {}/{} step {} | image→text R@1 {:.2f} % R@5 {:.2f} % R@10 {:.2f} % | "
      "text→image R@1 {:.2f} % R@5 {:.2f} % R@10 {:.2f} % | {} images, {} captions",
      record.value("epoch", 0), record.value("epochs", 0), record.value("step", 0),
      100 * record.value("image_to_text_r1", 0.0), 100 * record.value("image_to_text_r5", 0.0),
      100 * record.value("image_to_text_r10", 0.0), 100 * record.value("text_to_image_r1", 0.0),
      100 * record.value("text_to_image_r5", 0.0), 100 * record.value("text_to_image_r10", 0.0),
      record.value("images", 0), record.value("captions", 0));
}

JsonLinesLog::JsonLinesLog(const std::filesystem::path& file, std::int64_t resumed_step, bool validated,
                           Logger logger)
    : path_(file), logger_(std::move(logger)) {
  drop_lines_after(file, resumed_step, validated);
  descriptor_ = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  if (descriptor_ < 0) fail("{}: cannot open for writing: {}", file.string(), system_message(errno));
}

JsonLinesLog::~JsonLinesLog() { ::close(descriptor_); }

void JsonLinesLog::write(const char* type, const nlohmann::json& record) {
  nlohmann::json line = record;
  line["type"] = type;
  const off_t end = ::lseek(descriptor_, 0, SEEK_END);
  if (const int error = append_text(descriptor_, line.dump() + "\n"); error != 0) {
    // Half a line would spoil the next one too.
    [[maybe_unused]] const int ignored = ::ftruncate(descriptor_, end);
    if (missing_++ == 0) {
      logger_->warn("{}: can't be written: {}; the run goes on without the metrics from step {} on",
                    path_.string(), system_message(error), record.value("step", std::int64_t{0}));
    }
    return;
  }
  if (missing_ > 0)
    logger_->warn("{}: can be written again; lines that are missing: {}", path_.string(), missing_);
  missing_ = 0;
}

void JsonLinesLog::on_step(const nlohmann::json& record) { write("step", record); }
void JsonLinesLog::on_validation(const nlohmann::json& record) { write("validation", record); }

void TextLog::on_step(const nlohmann::json& record) { logger_->info("{}", step_line(record)); }
void TextLog::on_validation(const nlohmann::json& record) { logger_->info("{}", validation_line(record)); }

void ProgressLine::on_step(const nlohmann::json& record) {
  clear();
  std::fprintf(stderr, "%s", step_line(record).c_str());
  std::fflush(stderr);
  shown_ = true;
}

void ProgressLine::on_validation(const nlohmann::json& record) {
  clear();
  std::fprintf(stderr, "%s\n", validation_line(record).c_str());
}

void ProgressLine::on_end() { clear(); }

void ProgressLine::clear() {
  if (shown_) std::fprintf(stderr, "\r\033[K");
  shown_ = false;
}

}  // namespace tessera::train
