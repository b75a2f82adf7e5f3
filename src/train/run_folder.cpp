#include "train/run_folder.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/publish_folder.h"

namespace tessera::train {

namespace fs = std::filesystem;

namespace {

constexpr const char* kStepPrefix = "step-";

bool starts_with(const std::string& text, const std::string& prefix) { return text.rfind(prefix, 0) == 0; }

}  // namespace

std::optional<std::int64_t> step_of_name(const std::string& name) {
  if (!starts_with(name, kStepPrefix)) return std::nullopt;
  const std::string digits = name.substr(std::char_traits<char>::length(kStepPrefix));
  std::int64_t step = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (error != std::errc() || end != digits.data() + digits.size() || digits.empty()) return std::nullopt;
  return step;
}

RunFolder::RunFolder(fs::path root) : root_(std::move(root)) {}

fs::path RunFolder::folder_of(std::int64_t step) const {
  return checkpoints() / fmt::format("step-{:06}", step);
}

void RunFolder::prepare() const {
  std::error_code error;
  fs::create_directories(checkpoints(), error);
  if (error) fail("{}: cannot make the run's folder: {}", checkpoints().string(), error.message());
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints())) {
    const std::string name = entry.path().filename().string();
    if (starts_with(name, kUnfinishedFolderPrefix) || starts_with(name, kReplacedFolderPrefix))
      fs::remove_all(entry.path());
  }
}

std::vector<std::int64_t> RunFolder::steps() const {
  std::vector<std::int64_t> steps;
  if (!fs::is_directory(checkpoints())) return steps;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints())) {
    if (entry.is_symlink() || !entry.is_directory()) continue;
    if (const auto step = step_of_name(entry.path().filename().string())) steps.push_back(*step);
  }
  std::sort(steps.begin(), steps.end());
  return steps;
}

fs::path RunFolder::publish(std::int64_t step, const std::function<void(const fs::path&)>& write) const {
  fs::path folder = folder_of(step);
  publish_folder(folder, write);
  return folder;
}

void RunFolder::point(const std::string& link, std::int64_t step) const {
  const fs::path place = checkpoints() / link;
  const fs::path temporary = checkpoints() / (kUnfinishedFolderPrefix + link);
  fs::remove_all(temporary);
  fs::create_directory_symlink(folder_of(step).filename(), temporary);
  fs::rename(temporary, place);
  sync_to_disk(checkpoints());
}

std::optional<std::int64_t> RunFolder::pointed(const std::string& link) const {
  std::error_code error;
  const fs::path target = fs::read_symlink(checkpoints() / link, error);
  if (error) return std::nullopt;
  return step_of_name(target.filename().string());
}

void RunFolder::prune(std::int64_t keep) const {
  if (keep <= 0) return;
  std::set<std::int64_t> kept;
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints())) {
    if (!entry.is_symlink()) continue;
    if (const auto step = pointed(entry.path().filename().string())) kept.insert(*step);
  }
  const std::vector<std::int64_t> all = steps();
  for (std::size_t i = 0; i + static_cast<std::size_t>(keep) < all.size(); ++i) {
    if (kept.count(all[i]) != 0) continue;
    const fs::path folder = folder_of(all[i]);
    const fs::path pruned = checkpoints() / (kReplacedFolderPrefix + folder.filename().string());
    fs::remove_all(pruned);
    fs::rename(folder, pruned);
    fs::remove_all(pruned);
  }
}

fs::path RunFolder::resolve_resume(const std::string& what) const {
  if (what == "latest") {
    if (const auto step = pointed("latest"); step && fs::is_directory(folder_of(*step)))
      return folder_of(*step);
    const std::vector<std::int64_t> all = steps();
    if (all.empty()) {
      fail("--resume latest: no checkpoint in {}; leave out --resume to start the run",
           checkpoints().string());
    }
    return folder_of(all.back());
  }
  const fs::path path(what);
  if (!fs::is_directory(path)) fail("--resume {}: no such checkpoint folder", what);
  if (!fs::exists(path / "state")) {
    fail("--resume {}: the folder holds no 'state' file, so it is no checkpoint that a run can continue from",
         what);
  }
  return fs::canonical(path);
}

}  // namespace tessera::train
