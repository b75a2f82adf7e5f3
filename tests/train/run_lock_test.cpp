#include "train/run_lock.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <memory>
#include <thread>

#include "core/error.h"
#include "core/files.h"
#include "tests/core/error_of.h"
#include "tests/core/temporary_folder.h"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;

TEST(RunLockTest, RefusesASecondRunAndNamesTheFirst) {
  const TemporaryFolder folder;
  const fs::path run = folder.path() / "runs" / "name";
  const fs::path logs = folder.path() / "logs" / "name";
  {
    const RunLock first(run, logs, seconds(0), null_logger());
    const std::string error = error_of([&] { RunLock(run, logs, seconds(0), null_logger()); });
    for (const std::string& part :
         {run.string(), fmt::format("process {} (", getpid()), std::string("run.name")}) {
      EXPECT_NE(error.find(part), std::string::npos) << error;
    }
    // Another run, but into the same log.
    const std::string log_error =
        error_of([&] { RunLock(folder.path() / "runs" / "other", logs, seconds(0), null_logger()); });
    EXPECT_NE(log_error.find(logs.string()), std::string::npos) << log_error;
    EXPECT_NE(log_error.find("run.log_dir"), std::string::npos) << log_error;
  }
  EXPECT_TRUE(fs::is_empty(folder.path())) << "folders that nothing came into are left";
}

TEST(RunLockTest, OneFolderMayBeBoth) {
  const TemporaryFolder folder;
  const RunLock lock(folder.path() / "name", folder.path() / "name", seconds(0), null_logger());
  EXPECT_TRUE(fs::is_directory(folder.path() / "name"));
}

TEST(RunLockTest, WaitsForARunThatEnds) {
  const TemporaryFolder folder;
  const fs::path run = folder.path() / "name";
  const fs::path logs = folder.path() / "logs";
  auto first = std::make_unique<RunLock>(run, logs, seconds(0), null_logger());
  write_file_atomically(run / "file", "what the first run leaves");
  std::thread ending([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    first.reset();
  });
  const fs::path log = folder.path() / "log";
  {
    const Logger logger = make_logger({log}, /*to_terminal=*/false);
    EXPECT_NO_THROW(RunLock(run, logs, seconds(20), logger));
  }
  ending.join();
  EXPECT_NE(read_file(log).find("waiting"), std::string::npos) << read_file(log);
  EXPECT_TRUE(fs::exists(run / "file"));
}

}  // namespace
}  // namespace tessera::train
