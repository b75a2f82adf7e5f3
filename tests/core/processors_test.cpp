#include "core/processors.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <filesystem>
#include <string>

#include "core/files.h"
#include "tests/core/temporary_folder.h"

namespace tessera {
namespace {

namespace fs = std::filesystem;

/// A machine whose control groups are files in a folder.
class Machine {
 public:
  void write(const std::string& path, const std::string& content) const {
    fs::create_directories((folder_.path() / path).parent_path());
    write_file_atomically(folder_.path() / path, content);
  }
  ProcessorLimit limit() const { return processor_limit(folder_.path()); }

 private:
  TemporaryFolder folder_;
};

std::int64_t allowed_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  EXPECT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
  return CPU_COUNT(&set);
}

TEST(ProcessorsTest, AMachineWithoutControlGroupsHasTheProcessorsOfTheAffinity) {
  const ProcessorLimit limit = Machine().limit();
  EXPECT_EQ(limit.processors, allowed_processors());
  EXPECT_FALSE(limit.quota.has_value());
  EXPECT_EQ(limit.threads(), limit.processors);
}

TEST(ProcessorsTest, AContainerOfVersionTwoSeesItsQuotaAtTheRootOfItsMount) {
  const Machine machine;
  machine.write("proc/self/mountinfo",
                "21 20 0:20 / /proc rw - proc proc rw\n"
                "30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - cgroup2 cgroup rw,nsdelegate\n");
  machine.write("proc/self/cgroup", "0::/\n");
  machine.write("sys/fs/cgroup/cpu.max", "150000 100000\n");
  EXPECT_DOUBLE_EQ(machine.limit().quota.value_or(0), 1.5);
}

TEST(ProcessorsTest, TheTightestGroupOnTheWayToTheRootHolds) {
  const Machine machine;
  machine.write("proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  machine.write("proc/self/cgroup", "0::/user.slice/run-7.scope\n");
  machine.write("sys/fs/cgroup/user.slice/cpu.max", "50000 100000\n");
  machine.write("sys/fs/cgroup/user.slice/run-7.scope/cpu.max", "max 100000\n");
  EXPECT_DOUBLE_EQ(machine.limit().quota.value_or(0), 0.5);
  machine.write("sys/fs/cgroup/user.slice/run-7.scope/cpu.max", "20000 100000\n");
  EXPECT_DOUBLE_EQ(machine.limit().quota.value_or(0), 0.2);
  EXPECT_EQ(machine.limit().threads(), 1);
}

TEST(ProcessorsTest, VersionOneIsReadTooAlsoWhereTheMountShowsAGroupOfIt) {
  const Machine machine;
  // Docker shows a container its own group as the root of the mount, and names it by its path on the host.
  machine.write("proc/self/mountinfo",
                "40 39 0:30 /docker/f00 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
                "41 39 0:31 /docker/f00 /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n");
  machine.write("proc/self/cgroup", "5:memory:/docker/f00\n4:cpu,cpuacct:/docker/f00\n");
  machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "250000\n");
  machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
  EXPECT_DOUBLE_EQ(machine.limit().quota.value_or(0), 2.5);
  machine.write("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  EXPECT_FALSE(machine.limit().quota.has_value());
}

TEST(ProcessorsTest, AQuotaOverTheProcessorsAddsNone) {
  EXPECT_EQ((ProcessorLimit{2, 16.0}).threads(), 2);
  EXPECT_EQ((ProcessorLimit{64, 3.1}).threads(), 4);
  EXPECT_EQ((ProcessorLimit{64, std::nullopt}).threads(), 64);
}

TEST(ProcessorsTest, FilesThatSayNothingSensibleAreNoQuota) {
  const Machine machine;
  machine.write("proc/self/mountinfo",
                "30 24\n\nx - \n31 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  machine.write("proc/self/cgroup", "garbage\n0::/\n");
  for (const char* content : {"", "max", "0 100000", "-5 100000", "50000 0", "a b"}) {
    machine.write("sys/fs/cgroup/cpu.max", content);
    EXPECT_FALSE(machine.limit().quota.has_value()) << content;
  }
}

}  // namespace
}  // namespace tessera
