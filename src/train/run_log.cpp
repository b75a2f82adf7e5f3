#include "train/run_log.h"

#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/files.h"

namespace tessera::train {

namespace {

/// Keeps the lines up to a step; a torn last line (the process died while writing) goes too.
void drop_lines_after(const std::filesystem::path& path, std::int64_t step) {
  if (!std::filesystem::exists(path)) return;
  std::istringstream lines(read_file(path));
  std::string kept;
  for (std::string line; std::getline(lines, line);) {
    const nlohmann::json record = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object() || record.value("step", std::int64_t{0}) > step) continue;
    kept += line + "\n";
  }
  write_file_atomically(path, kept);
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
  line += fmt::format(" | temperature {:.4f} | {:.0f} images/s | data wait {:.0f} %",
                      record.value("itc_temperature", 0.0), record.value("images_per_second", 0.0),
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

JsonLinesLog::JsonLinesLog(const std::filesystem::path& file, std::int64_t resumed_step) {
  drop_lines_after(file, resumed_step);
  file_ = std::fopen(file.c_str(), "a");
  if (file_ == nullptr) fail("{}: cannot open for writing: {}", file.string(), system_message(errno));
}

JsonLinesLog::~JsonLinesLog() { std::fclose(file_); }

void JsonLinesLog::write(const char* type, const nlohmann::json& record) {
  nlohmann::json line = record;
  line["type"] = type;
  const std::string text = line.dump() + "\n";
  std::fwrite(text.data(), 1, text.size(), file_);
  std::fflush(file_);
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
