#include "train/run_folder.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "core/error.h"
#include "core/files.h"
#include "core/publish_folder.h"
#include "train/checkpoint.h"

namespace tessera::train {

namespace fs = std::filesystem;

namespace {

constexpr const char* kStepPrefix = "step-";

/// A checkpoint that is being deleted.
constexpr const char* kPrunedPrefix = ".pruned-";
constexpr const char* kMetrics = "metrics.jsonl";

bool starts_with(const std::string& text, const std::string& prefix) { return text.rfind(prefix, 0) == 0; }

std::string set_aside_name(std::int64_t step) { return fmt::format("abandoned-after-{:06}", step); }
/// As long as not all has been moved there.
std::string setting_aside_name(std::int64_t step) { return "." + set_aside_name(step); }

/// `place`, or the first of place-2, place-3, … that is free.
fs::path free_place(const fs::path& place) {
  fs::path found = place;
  for (int n = 2; fs::exists(fs::symlink_status(found)); ++n) found = fmt::format("{}-{}", place.string(), n);
  return found;
}

void rename_away(const fs::path& folder) {
  const fs::path doomed = folder.parent_path() / (kPrunedPrefix + folder.filename().string());
  fs::remove_all(doomed);
  fs::rename(folder, doomed);
  fs::remove_all(doomed);
}

std::set<fs::path> files_below(const fs::path& folder) {
  std::set<fs::path> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(folder)) {
    if (!entry.is_directory()) files.insert(fs::relative(entry.path(), folder));
  }
  return files;
}

bool same_content(const fs::path& left, const fs::path& right) {
  const std::set<fs::path> files = files_below(left);
  if (files != files_below(right)) return false;
  return std::all_of(files.begin(), files.end(), [&](const fs::path& file) {
    return fs::file_size(left / file) == fs::file_size(right / file) &&
           file_hash(left / file) == file_hash(right / file);
  });
}

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

fs::path RunFolder::checkpoint(std::int64_t step) const {
  return checkpoints() / fmt::format("step-{:06}", step);
}

void RunFolder::prepare() const {
  std::error_code error;
  fs::create_directories(checkpoints(), error);
  if (error) fail("{}: cannot make the run's folder: {}", checkpoints().string(), error.message());
  for (const fs::directory_entry& entry : fs::directory_iterator(checkpoints())) {
    const std::string name = entry.path().filename().string();
    if (starts_with(name, kReplacedFolderPrefix)) restore_replaced_folder(entry.path());
    if (starts_with(name, kUnfinishedFolderPrefix) || starts_with(name, kPrunedPrefix))
      fs::remove_all(entry.path());
  }
}

std::vector<std::string> RunFolder::mend_links() const {
  std::vector<std::string> lines;
  for (const char* link : kLinks) {
    const fs::path place = checkpoints() / link;
    if (!fs::is_symlink(place) && fs::is_directory(place)) lines.push_back(mend_link(link));
  }
  return lines;
}

std::string RunFolder::mend_link(const std::string& link) const {
  const fs::path place = checkpoints() / link;
  const auto keep_beside = [&](const std::string& why) {
    const fs::path kept = free_place(fmt::format("{}-copied", place.string()));
    fs::rename(place, kept);
    return fmt::format("{} was a folder and no link: {}, and is kept as {}", place.string(), why,
                       kept.filename().string());
  };
  std::int64_t step = 0;
  try {
    step = read_position(place).step;
  } catch (const Error& error) {
    return keep_beside(fmt::format("it is no whole checkpoint ({})", error.what()));
  }
  const fs::path folder = checkpoint(step);
  if (!fs::exists(folder)) {
    fs::rename(place, folder);
  } else if (same_content(place, folder)) {
    rename_away(place);
  } else {
    const std::string line = keep_beside(fmt::format("it differs from {}", folder.filename().string()));
    point(link, step);
    return line;
  }
  point(link, step);
  return fmt::format(
      "{} was a folder and no link, as copies have it that followed links: it points at {} again",
      place.string(), folder.filename().string());
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
  fs::path folder = checkpoint(step);
  publish_folder(folder, write);
  return folder;
}

void RunFolder::point(const std::string& link, std::int64_t step) const {
  const fs::path place = checkpoints() / link;
  const fs::path temporary = checkpoints() / (kUnfinishedFolderPrefix + link);
  fs::remove_all(temporary);
  fs::create_directory_symlink(checkpoint(step).filename(), temporary);
  fs::rename(temporary, place);
  sync_to_disk(checkpoints());
}

void RunFolder::unpoint(const std::string& link) const {
  const fs::path place = checkpoints() / link;
  if (!fs::is_symlink(place)) return;
  fs::remove(place);
  sync_to_disk(checkpoints());
}

std::optional<std::int64_t> RunFolder::pointed(const std::string& link) const {
  std::error_code error;
  const fs::path target = fs::read_symlink(checkpoints() / link, error);
  if (error) return std::nullopt;
  const std::optional<std::int64_t> step = step_of_name(target.filename().string());
  return step && fs::is_directory(checkpoint(*step)) ? step : std::nullopt;
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
    rename_away(checkpoint(all[i]));
  }
}

bool RunFolder::is_setting_aside_after(std::int64_t step) const {
  return fs::exists(checkpoints() / setting_aside_name(step));
}

fs::path RunFolder::resolve_resume(const std::string& what) const {
  const std::vector<std::int64_t> all = steps();
  if (what == "latest") {
    if (all.empty()) {
      fail("--resume latest: no checkpoint in {}; leave out --resume to start the run",
           checkpoints().string());
    }
    // A newer one that `latest` does not point at yet was finished just before the process was killed, unless
    // it was about to be set aside.
    const std::optional<std::int64_t> step = pointed("latest");
    return checkpoint(step && is_setting_aside_after(*step) ? *step : all.back());
  }
  const fs::path path(what);
  if (!fs::is_directory(path)) fail("--resume {}: no such checkpoint folder", what);
  if (!fs::exists(path / "state")) {
    fail("--resume {}: the folder holds no 'state' file, so it is no checkpoint that a run can continue from",
         what);
  }
  fs::path folder = fs::canonical(path);
  if (!all.empty() && folder.parent_path() != fs::canonical(checkpoints())) {
    throw ConfigError(
        fmt::format("--resume {}: {} holds a run of its own: give the one that goes on from this checkpoint "
                    "another name (--set run.name=…)",
                    what, root_.string()));
  }
  return folder;
}

std::optional<fs::path> RunFolder::set_aside_after(std::int64_t step) const {
  std::vector<std::int64_t> later = steps();
  later.erase(later.begin(), std::upper_bound(later.begin(), later.end(), step));
  // Should the process be killed in between: the folder first, then `latest`, say what was meant.
  const fs::path place = checkpoints() / setting_aside_name(step);
  if (later.empty() && !fs::exists(place)) return std::nullopt;
  fs::create_directory(place);
  for (const char* link : kLinks) {
    if (pointed(link).value_or(0) <= step) continue;
    if (link == std::string("latest") && fs::is_directory(checkpoint(step))) {
      point(link, step);
    } else {
      unpoint(link);
    }
  }
  if (fs::is_regular_file(root_ / kMetrics)) {
    fs::copy_file(root_ / kMetrics, place / kMetrics, fs::copy_options::overwrite_existing);
  }
  for (const std::int64_t abandoned : later) {
    fs::rename(checkpoint(abandoned), place / checkpoint(abandoned).filename());
  }
  sync_to_disk(place);
  fs::path finished = free_place(checkpoints() / set_aside_name(step));
  fs::rename(place, finished);
  sync_to_disk(checkpoints());
  return finished;
}

}  // namespace tessera::train
