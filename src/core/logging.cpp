#include "core/logging.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <atomic>
#include <system_error>

#include "core/error.h"

namespace tessera {

namespace {

constexpr const char* kLogPattern = "%Y-%m-%d %H:%M:%S [%l] %v";

spdlog::sink_ptr file_sink(const std::filesystem::path& file) {
  if (file.has_parent_path()) {
    std::error_code error;
    std::filesystem::create_directories(file.parent_path(), error);
    if (error) {
      fail("{}: the log's folder can't be made: {}", file.string(), error.message());
    }
  }
  try {
    return std::make_shared<spdlog::sinks::basic_file_sink_mt>(file.string());
  } catch (const spdlog::spdlog_ex& error) {
    fail("{}: the log can't be opened: {}", file.string(), error.what());
  }
}

}  // namespace

Logger make_logger(const std::vector<std::filesystem::path>& files, bool to_terminal) {
  std::vector<spdlog::sink_ptr> sinks;
  if (to_terminal) {
    sinks.push_back(std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  }
  auto logger = std::make_shared<spdlog::logger>("tessera", sinks.begin(), sinks.end());
  add_files(logger, files);
  logger->set_pattern(kLogPattern);
  logger->flush_on(spdlog::level::trace);
  logger->set_error_handler(
      [weak = std::weak_ptr(logger), said = std::make_shared<std::atomic<bool>>(false)](const auto& what) {
        // Said before it is logged: the same file fails again at that.
        const Logger live = weak.lock();
        if (live && !said->exchange(true)) live->warn("a log is incomplete from here on: {}", what);
      });
  return logger;
}

void add_files(const Logger& logger, const std::vector<std::filesystem::path>& files) {
  for (const auto& file : files) {
    logger->sinks().push_back(file_sink(file));
    logger->sinks().back()->set_pattern(kLogPattern);
  }
}

Logger null_logger() {
  return std::make_shared<spdlog::logger>("null", std::make_shared<spdlog::sinks::null_sink_mt>());
}

}  // namespace tessera
