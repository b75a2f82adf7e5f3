#include "core/logging.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/sinks/stdout_color_sinks.h>

#include <system_error>

#include "core/error.h"

namespace tessera {

namespace {

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
  for (const auto& file : files) {
    sinks.push_back(file_sink(file));
  }
  auto logger = std::make_shared<spdlog::logger>("tessera", sinks.begin(), sinks.end());
  logger->set_pattern("%Y-%m-%d %H:%M:%S [%l] %v");
  logger->flush_on(spdlog::level::trace);
  return logger;
}

Logger null_logger() {
  return std::make_shared<spdlog::logger>("null", std::make_shared<spdlog::sinks::null_sink_mt>());
}

}  // namespace tessera
