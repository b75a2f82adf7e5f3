#include "train/run_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "core/archive.h"
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
  fs::create_directories(folder.checkpoints() / ".replaced-step-000005");
  folder.prepare();
  EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{5}));
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.checkpoints()), fs::directory_iterator()), 1);
  // Killed between the two renames of a replacement, the old one is the only one that is whole.
  fs::rename(folder.checkpoint(5), folder.checkpoints() / ".replaced-step-000005");
  fs::create_directories(folder.checkpoints() / ".writing-step-000005");
  folder.prepare();
  EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{5}));
  EXPECT_TRUE(fs::exists(folder.checkpoint(5) / "state"));
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

/// A state that says which step it is of, with something that tells two copies apart.
auto state_of(std::int64_t step, const std::string& content = "") {
  return [step, content](const fs::path& place) {
    Archive state;
    state.json() = {{"format", 1},
                    {"content", content},
                    {"position", {{"epoch", 0}, {"next_batch", step}, {"step", step}, {"phase", 0}}}};
    state.write(place / "state", "tessera-state");
    fs::create_directories(place / "inside");
    write_file_atomically(place / "inside" / "weights", content);
  };
}

/// What `cp -rL` makes of a link.
void follow(const RunFolder& folder, const std::string& link) {
  const fs::path place = folder.checkpoints() / link;
  const fs::path target = fs::canonical(place);
  fs::remove(place);
  fs::copy(target, place, fs::copy_options::recursive);
}

TEST_F(RunFolderTest, MakesLinksAgainOfFoldersThatACopyMadeOfThem) {
  const RunFolder folder(root_);
  folder.prepare();
  for (const std::int64_t step : {5, 10}) folder.publish(step, state_of(step));
  folder.point("latest", 10);
  folder.point("best", 5);
  folder.point("phase1", 5);
  for (const char* link : RunFolder::kLinks) follow(folder, link);
  // Only the links were copied of this one.
  fs::remove_all(folder.checkpoint(5));
  EXPECT_EQ(folder.mend_links().size(), 3u);
  EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{5, 10}));
  EXPECT_EQ(folder.pointed("latest"), 10);
  EXPECT_EQ(folder.pointed("best"), 5);
  EXPECT_EQ(folder.pointed("phase1"), 5);
  EXPECT_TRUE(fs::exists(folder.checkpoint(5) / "inside" / "weights"));
  EXPECT_TRUE(folder.mend_links().empty());
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.checkpoints()), fs::directory_iterator()), 5);
}

TEST_F(RunFolderTest, ACopyThatDiffersIsKept) {
  const RunFolder folder(root_);
  folder.prepare();
  folder.publish(5, state_of(5, "one"));
  folder.point("best", 5);
  follow(folder, "best");
  folder.publish(5, state_of(5, "another"));
  fs::create_directories(folder.checkpoints() / "latest");  // torn: no state in it
  const std::vector<std::string> lines = folder.mend_links();
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_NE(lines[0].find("no whole checkpoint"), std::string::npos) << lines[0];
  EXPECT_NE(lines[1].find("differs from step-000005"), std::string::npos) << lines[1];
  EXPECT_EQ(folder.pointed("best"), 5);
  EXPECT_EQ(read_file(folder.checkpoints() / "best" / "inside" / "weights"), "another");
  EXPECT_EQ(read_file(folder.checkpoints() / "best-copied" / "inside" / "weights"), "one");
  EXPECT_TRUE(fs::is_directory(folder.checkpoints() / "latest-copied"));
}

TEST_F(RunFolderTest, SetsLaterCheckpointsAside) {
  const RunFolder folder(root_);
  folder.prepare();
  for (const std::int64_t step : {5, 10, 15}) folder.publish(step, write_state);
  folder.point("latest", 15);
  folder.point("best", 10);
  folder.point("phase1", 5);
  write_file_atomically(root_ / "metrics.jsonl", "{}\n");
  EXPECT_FALSE(folder.set_aside_after(15));
  const auto place = folder.set_aside_after(5);
  ASSERT_TRUE(place);
  EXPECT_EQ(place->filename(), "abandoned-after-000005");
  EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{5}));
  EXPECT_EQ(folder.pointed("latest"), 5);
  EXPECT_FALSE(folder.pointed("best"));
  EXPECT_FALSE(fs::exists(fs::symlink_status(folder.checkpoints() / "best")));
  EXPECT_EQ(folder.pointed("phase1"), 5);
  for (const char* kept : {"step-000010/state", "step-000015/state", "metrics.jsonl"}) {
    EXPECT_TRUE(fs::exists(*place / kept)) << kept;
  }
  // Another time from the same step; and neither counts, or goes, when pruning.
  folder.publish(10, write_state);
  EXPECT_EQ(folder.set_aside_after(5)->filename(), "abandoned-after-000005-2");
  folder.prune(1);
  EXPECT_TRUE(fs::exists(*place / "step-000010/state"));
}

TEST_F(RunFolderTest, ResumeTakesACheckpointThatLatestDoesNotPointAtYet) {
  const RunFolder folder(root_);
  folder.prepare();
  folder.publish(5, write_state);
  folder.point("latest", 5);
  folder.publish(10, write_state);  // and the process is killed here
  EXPECT_EQ(folder.resolve_resume("latest").filename(), "step-000010");
  // Also where another branch had been set aside before,
  fs::create_directories(folder.checkpoints() / "abandoned-after-000005");
  EXPECT_EQ(folder.resolve_resume("latest").filename(), "step-000010");
  // but not where it was killed while 10 was about to be set aside: that goes on.
  fs::create_directories(folder.checkpoints() / ".abandoned-after-000005");
  EXPECT_EQ(folder.resolve_resume("latest").filename(), "step-000005");
  EXPECT_EQ(folder.set_aside_after(5)->filename(), "abandoned-after-000005-2");
  EXPECT_EQ(folder.steps(), (std::vector<std::int64_t>{5}));
  EXPECT_FALSE(fs::exists(folder.checkpoints() / ".abandoned-after-000005"));
}

TEST_F(RunFolderTest, ResumeFromAnotherRunNeedsAFolderOfItsOwn) {
  const RunFolder source(root_ / "source");
  source.prepare();
  source.publish(5, write_state);
  const std::string path = source.checkpoint(5).string();
  const RunFolder fresh(root_ / "fresh");
  EXPECT_EQ(fresh.resolve_resume(path), fs::canonical(path));
  fresh.prepare();
  fresh.publish(7, write_state);
  EXPECT_THROW(fresh.resolve_resume(path), ConfigError);
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
