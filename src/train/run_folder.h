#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace tessera::train {

/// The folder of a run and its checkpoints:
///
///   RUN/config.yaml  RUN/training.log  RUN/metrics.jsonl  RUN/backbone/  RUN/export/
///   RUN/checkpoints/step-000750/  latest → step-000750  best → step-000500  phase1 → step-000250
///
/// Whatever moment the process dies at, every step-NNNNNN is whole and every link points to one: folders are
/// written under another name, fsynced and renamed; links are replaced by renaming; what is pruned is renamed
/// before it is deleted. Who changes anything here holds the run's RunLock.
class RunFolder {
 public:
  static constexpr std::array kLinks = {"latest", "best", "phase1"};

  explicit RunFolder(std::filesystem::path root);

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path checkpoints() const { return root_ / "checkpoints"; }
  std::filesystem::path checkpoint(std::int64_t step) const;

  /// Makes the folders and clears what a killed run left half-written.
  void prepare() const;
  /// Makes links again of folders that a copy which followed the links (cp -rL) has in their place. Such a
  /// folder may be the only copy of its checkpoint. Returns a line for each, what was done.
  std::vector<std::string> mend_links() const;
  /// Steps of the whole checkpoints, ascending.
  std::vector<std::int64_t> steps() const;

  /// Calls `write` with an empty temporary folder and publishes it as the checkpoint of `step`; an exception
  /// leaves nothing behind. A checkpoint of the same step is replaced.
  std::filesystem::path publish(std::int64_t step,
                                const std::function<void(const std::filesystem::path&)>& write) const;
  /// Points a link (latest, best, phase1) at a checkpoint.
  void point(const std::string& link, std::int64_t step) const;
  void unpoint(const std::string& link) const;
  /// What a link points at; empty where there is no such link, or no longer such a checkpoint.
  std::optional<std::int64_t> pointed(const std::string& link) const;
  /// Deletes all but the newest `keep` checkpoints and those that a link points at; 0 keeps all.
  void prune(std::int64_t keep) const;

  /// The checkpoint that `--resume WHAT` means: "latest", or the path of a checkpoint folder.
  /// @throws Error that says what was looked for and what there is; ConfigError where the folder holds
  /// another run than the checkpoint's
  std::filesystem::path resolve_resume(const std::string& what) const;

  /// Moves the checkpoints after `step` and a copy of metrics.jsonl into a folder
  /// checkpoints/abandoned-after-…: a run that goes on from `step` has nothing to do with them any more.
  /// `latest` points at `step` then, and other links that pointed at one of them are gone. Returns that
  /// folder; empty where there is none after `step`.
  std::optional<std::filesystem::path> set_aside_after(std::int64_t step) const;

 private:
  std::string mend_link(const std::string& link) const;
  bool is_setting_aside_after(std::int64_t step) const;

  std::filesystem::path root_;
};

/// The step of a folder name "step-000750"; empty for any other name.
std::optional<std::int64_t> step_of_name(const std::string& name);

}  // namespace tessera::train
