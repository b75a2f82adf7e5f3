#include "train/run_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/error.h"
#include "core/files.h"

namespace tessera::train {
namespace {

namespace fs = std::filesystem;

class RunFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / fmt::format("tessera-run-folder-{}", getpid());
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  static void write_state(const fs::path& folder) { write_file_atomically(folder / "state", "whole"); }

  fs::path root_;
};

TEST_F(RunFolderTest, PublishesWholeCheckpointsAndPointsLinksAtThem) {
  const RunFolder folder(root_);
  folder.prepare();
  folder.publish(5, write_state);
  folder.publish(10, write_state);
  folder.point("latest", 10);
  EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{5, 10}));
  EXPECT_EQ(folder.pointed("latest"), 10);
  EXPECT_TRUE(fs::exists(root_ / "checkpoints" / "latest" / "state"));
  EXPECT_EQ(folder.resolve_resume("latest"), root_ / "checkpoints" / "step-000010");
}

TEST_F(RunFolderTest, FailedWriteLeavesNothing) {
  const RunFolder folder(root_);
  folder.prepare();
  EXPECT_THROW(folder.publish(5,
                              [](const fs::path& place) {
                                write_state(place);
                                fail("the disk is full");
                              }),
               Error);
  EXPECT_TRUE(fs::is_empty(folder.checkpoints()));
}

TEST_F(RunFolderTest, ReplacesACheckpointOfTheSameStep) {
  const RunFolder folder(root_);
  folder.prepare();
  folder.publish(5, write_state);
  folder.publish(5, [](const fs::path& place) { write_file_atomically(place / "state", "newer"); });
  EXPECT_EQ(read_file(root_ / "checkpoints" / "step-000005" / "state"), "newer");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.checkpoints()), fs::directory_iterator()), 1);
}

TEST_F(RunFolderTest, PrunesAllButTheNewestAndThoseThatLinksPointAt) {
  const RunFolder folder(root_);
  folder.prepare();
  for (const std::int64_t step : {1, 2, 3, 4, 5}) folder.publish(step, write_state);
  folder.point("best", 2);
  folder.prune(2);
  EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{2, 4, 5}));
  folder.prune(0);
  EXPECT_EQ(folder.steps().size(), 3u);
}

TEST_F(RunFolderTest, PrepareClearsWhatAKilledRunLeft) {
  const RunFolder folder(root_);
  folder.prepare();
  folder.publish(5, write_state);
  fs::create_directories(folder.checkpoints() / ".writing-step-000006");
  fs::create_directories(folder.checkpoints() / ".pruned-step-000001");
  folder.prepare();
  EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{5}));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.checkpoints()), fs::directory_iterator()), 1);
}

TEST_F(RunFolderTest, ResumeSaysWhatIsMissing) {
  const RunFolder folder(root_);
  EXPECT_THROW(folder.resolve_resume("latest"), Error);
  EXPECT_THROW(folder.resolve_resume((root_ / "nowhere").string()), Error);
  folder.prepare();
  fs::create_directories(root_ / "empty");
  EXPECT_THROW(folder.resolve_resume((root_ / "empty").string()), Error);
}

TEST_F(RunFolderTest, ResumeWithoutALinkTakesTheNewest) {
  const RunFolder folder(root_);
  folder.prepare();
  folder.publish(5, write_state);
  folder.publish(7, write_state);
  EXPECT_EQ(folder.resolve_resume("latest").filename(), "step-000007");
}

TEST(StepOfName, ReadsOnlyCheckpointNames) {
  EXPECT_EQ(step_of_name("step-000750"), 750);
  EXPECT_EQ(step_of_name("step-1234567"), 1234567);
  for (const char* name : {"step-", "step-12a", "latest", ".writing-step-000001", "step--1x"}) {
    EXPECT_FALSE(step_of_name(name)) << name;
  }
}

}  // namespace
}  // namespace tessera::train
