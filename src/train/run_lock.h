#pragma once

#include <chrono>
#include <filesystem>
#include <vector>

#include "core/folder_lock.h"
#include "core/logging.h"

namespace tessera::train {

/// Keeps a run's folder and its folder of logs for this process: two runs of one name would delete each
/// other's unfinished checkpoints and write into one log. The folders are made where they are not there, and
/// go again with the lock where nothing has come into them.
class RunLock {
 public:
  /// @param patience  how long to wait for a run that holds them and may be about to end
  /// @throws ConfigError naming the folder and, where this machine knows it, the process that holds it
  RunLock(const std::filesystem::path& run, const std::filesystem::path& logs, std::chrono::seconds patience,
          const Logger& logger);

 private:
  void take(const std::filesystem::path& folder, const char* other_name, std::chrono::seconds patience,
            const Logger& logger);

  /// Removes what is still empty, while the locks are held.
  struct MadeFolders {
    std::vector<std::filesystem::path> paths;  ///< outer ones before those inside

    MadeFolders() = default;
    ~MadeFolders();
    MadeFolders(const MadeFolders&) = delete;
    MadeFolders& operator=(const MadeFolders&) = delete;
  };

  std::vector<FolderLock> locks_;
  MadeFolders made_;
};

}  // namespace tessera::train
