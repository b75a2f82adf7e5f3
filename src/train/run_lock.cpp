#include "train/run_lock.h"

#include <system_error>
#include <thread>

#include "core/error.h"

namespace tessera::train {

namespace fs = std::filesystem;

namespace {

constexpr std::chrono::milliseconds kBetweenTries{200};

/// Makes a folder with those around it, and adds what was not there to `made`.
void make_folder(const fs::path& folder, std::vector<fs::path>& made) {
  if (folder.empty() || fs::is_directory(folder)) return;
  make_folder(folder.parent_path(), made);
  std::error_code error;
  if (fs::create_directory(folder, error)) made.push_back(folder);
  if (error) fail("{}: the folder can't be made: {}", folder.string(), error.message());
}

}  // namespace

RunLock::RunLock(const fs::path& run, const fs::path& logs, std::chrono::seconds patience,
                 const Logger& logger) {
  take(run, "--set run.name=… or run.output_dir=…", patience, logger);
  std::error_code error;
  if (!fs::equivalent(run, logs, error)) take(logs, "--set run.name=… or run.log_dir=…", patience, logger);
}

RunLock::MadeFolders::~MadeFolders() {
  std::error_code ignored;
  for (auto folder = paths.rbegin(); folder != paths.rend(); ++folder) fs::remove(*folder, ignored);
}

void RunLock::take(const fs::path& folder, const char* other_name, std::chrono::seconds patience,
                   const Logger& logger) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (bool told = false;; std::this_thread::sleep_for(kBetweenTries)) {
    // Each time anew: who held the lock may have taken an empty folder away with it.
    make_folder(folder, made_.paths);
    FolderLock lock = FolderLock::try_lock(folder);
    if (lock.state() == LockState::kGone) continue;
    if (lock.state() == LockState::kImpossible) {
      logger->warn("{}: this file system can't lock folders: a second run of this name would not be noticed",
                   folder.string());
    }
    if (lock.state() != LockState::kTaken) {
      locks_.push_back(std::move(lock));
      return;
    }
    const std::string found = lock_holder(folder);
    const std::string holder = found.empty() ? "another process" : found;
    if (std::chrono::steady_clock::now() >= deadline) {
      throw ConfigError(
          fmt::format("{} is in use by {}, and a second run would destroy what that one writes: wait for its "
                      "end, or give this run another place ({})",
                      folder.string(), holder, other_name));
    }
    if (!told) {
      logger->info("{} is in use by {}: waiting up to {} s for its end", folder.string(), holder,
                   patience.count());
    }
    told = true;
  }
}

}  // namespace tessera::train
