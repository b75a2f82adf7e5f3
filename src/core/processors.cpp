#include "core/processors.h"

#include <ATen/Parallel.h>
#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>

namespace tessera {

namespace fs = std::filesystem;

namespace {

std::int64_t processors_to_run_on() {
  cpu_set_t set;
  CPU_ZERO(&set);
  // Fails on machines with more processors than the set has places for: those have no need of care.
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1U, std::thread::hardware_concurrency());
}

std::optional<double> share(double quota, double period) {
  if (quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

/// cpu.max of control groups' second version: "200000 100000", or "max 100000" for none.
std::optional<double> quota_of_version_2(const fs::path& group) {
  std::ifstream file(group / "cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max") return std::nullopt;
  return share(std::atof(quota.c_str()), period);
}

/// cpu.cfs_quota_us of the first version: microseconds, -1 for none.
std::optional<double> quota_of_version_1(const fs::path& group) {
  std::ifstream quota_file(group / "cpu.cfs_quota_us"), period_file(group / "cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(quota_file >> quota) || !(period_file >> period)) return std::nullopt;
  return share(quota, period);
}

struct Hierarchy {
  fs::path mount;     ///< where it is mounted
  std::string shown;  ///< which group the mount shows as its root: a container may see its own group only
  bool version_2 = false;
};

/// The mounts of control groups that can limit processors' time, of a line of /proc/self/mountinfo (proc(5)):
/// "36 35 0:29 ROOT MOUNT OPTIONS … - TYPE SOURCE SUPEROPTIONS".
std::optional<Hierarchy> hierarchy_of(const std::string& line) {
  std::istringstream words(line);
  std::string word, shown, mount, type, source, options;
  for (int skipped = 0; skipped < 3; ++skipped) words >> word;
  words >> shown >> mount;
  while (words >> word && word != "-") {
  }
  words >> type >> source >> options;
  if (type == "cgroup2") return Hierarchy{mount, shown, true};
  const std::string listed = "," + options + ",";
  if (type == "cgroup" && listed.find(",cpu,") != std::string::npos) return Hierarchy{mount, shown, false};
  return std::nullopt;
}

/// The process's group in a hierarchy, of /proc/self/cgroup: "0::/a/b" in version 2, "4:cpu,cpuacct:/a/b" in
/// version 1.
std::optional<std::string> group_in(const fs::path& root, bool version_2) {
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool matches =
        version_2 ? controllers.empty() : ("," + controllers + ",").find(",cpu,") != std::string::npos;
    if (matches) return line.substr(second + 1);
  }
  return std::nullopt;
}

}  // namespace

std::int64_t ProcessorLimit::threads() const {
  if (!quota) return processors;
  return std::clamp<std::int64_t>(static_cast<std::int64_t>(std::ceil(*quota)), 1, processors);
}

ProcessorLimit processor_limit(const fs::path& root) {
  ProcessorLimit limit{processors_to_run_on(), std::nullopt};
  std::ifstream mounts(root / "proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const std::optional<Hierarchy> hierarchy = hierarchy_of(line);
    if (!hierarchy) continue;
    const fs::path mount = root / hierarchy->mount.relative_path();
    fs::path group = group_in(root, hierarchy->version_2).value_or("/");
    // A mount that shows a group within the hierarchy as its root: the rest of the path is what lies below
    // it.
    const fs::path below = group.lexically_relative(hierarchy->shown);
    group = below.empty() || *below.begin() == ".." ? fs::path() : below;
    // Every group on the way to the root can have a quota, and the tightest holds.
    for (fs::path place = (mount / group).lexically_normal();; place = place.parent_path()) {
      const std::optional<double> quota =
          hierarchy->version_2 ? quota_of_version_2(place) : quota_of_version_1(place);
      if (quota) limit.quota = std::min(*quota, limit.quota.value_or(*quota));
      if (place == mount || !place.has_relative_path() || place == place.parent_path()) break;
    }
  }
  return limit;
}

void limit_threads_to_quota() {
  if (std::getenv("OMP_NUM_THREADS") != nullptr || std::getenv("MKL_NUM_THREADS") != nullptr) return;
  const std::int64_t threads = processor_limit().threads();
  if (threads < at::get_num_threads()) at::set_num_threads(static_cast<int>(threads));
}

}  // namespace tessera
