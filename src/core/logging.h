#pragma once

#include <spdlog/spdlog.h>

#include <filesystem>
#include <memory>
#include <vector>

namespace tessera {

using Logger = std::shared_ptr<spdlog::logger>;

/// Lines "2026-11-25 01:36:50 [info] message" to standard error and, appended and flushed line by line, to
/// each file (folders are made). Errors that concern a file name it. A file that can't be
/// written any more (a full disk) is told of once, to the others.
Logger make_logger(const std::vector<std::filesystem::path>& files, bool to_terminal = true);

/// Adds files to a logger of make_logger(), while no other thread writes to it.
void add_files(const Logger& logger, const std::vector<std::filesystem::path>& files);

/// A logger that drops everything, for tests and for ranks other than 0.
Logger null_logger();

}  // namespace tessera
