#include "core/logging.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/error.h"
#include "core/files.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

TEST(Logging, LinesReachEveryFileAtOnceAndAreAppended) {
  const TemporaryFolder folder;
  const auto first = folder.path() / "logs" / "a" / "training.log";
  const auto second = folder.path() / "training.log";
  const std::string line = "[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2} ";
  const Logger logger = make_logger({first, second}, /*to_terminal=*/false);
  logger->info("Phase {}", 1);
  // The logger is still open: a line that isn't flushed would not be there.
  EXPECT_THAT(read_file(first), MatchesRegex(line + "\\[info\\] Phase 1\n"));
  EXPECT_EQ(read_file(first), read_file(second));
  make_logger({first}, /*to_terminal=*/false)->warn("again");
  EXPECT_THAT(read_file(first), MatchesRegex(line + "\\[info\\] Phase 1\n" + line + "\\[warning\\] again\n"));
}

TEST(Logging, TerminalLinesGoToStandardError) {
  testing::internal::CaptureStderr();
  make_logger({})->error("seen");
  EXPECT_THAT(testing::internal::GetCapturedStderr(), HasSubstr("[error] seen"));
}

TEST(Logging, NullLoggerIsSilent) {
  testing::internal::CaptureStderr();
  null_logger()->error("not seen");
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(Logging, ComplaintsNameTheFile) {
  const TemporaryFolder folder;
  write_file_atomically(folder.path() / "file", "");
  for (const auto& path : {folder.path() / "file" / "training.log", folder.path()}) {
    try {
      make_logger({path}, /*to_terminal=*/false);
      ADD_FAILURE() << "accepted " << path;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(path.string()));
    }
  }
}

TEST(Logging, AFullDiskIsToldOfOnceToTheOthers) {
  const TemporaryFolder folder;
  const auto full = folder.path() / "full.log";
  const auto sound = folder.path() / "sound.log";
  std::filesystem::create_symlink("/dev/full", full);
  const Logger logger = make_logger({full, sound}, /*to_terminal=*/false);
  for (const char* line : {"one", "two", "three"}) logger->info("{}", line);
  const std::string text = read_file(sound);
  for (const char* part : {"one", "two", "three", "full.log", "No space left on device"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << " in " << text;
  }
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 4) << text;
}

}  // namespace
}  // namespace tessera
