#pragma once

#include <filesystem>
#include <functional>

namespace tessera {

// A folder that is being written, or that is being replaced, stands beside its place under its name with one
// of these in front. What a killed process leaves of the first may be deleted; the second may be the only one
// that is whole.
inline constexpr const char* kUnfinishedFolderPrefix = ".writing-";
inline constexpr const char* kReplacedFolderPrefix = ".replaced-";

/// What a killed process left of a replacement: the folder goes back to its place, or away if the new one is
/// there.
void restore_replaced_folder(const std::filesystem::path& replaced);

/// What becomes of a folder that is there already: it is replaced, with all that it holds, or it stays and
/// the new one is refused, also where it has come into being while the new one was written.
enum class OldFolder { kReplace, kRefuse };

/// Writes a whole folder or nothing: `write` fills an empty temporary folder beside `target`, which is
/// flushed to disk with all that it holds and put in the place of `target`; a reader sees the old folder or
/// the new one. A link to a folder stays, and what it leads to is replaced. Where `write` throws, nothing is
/// left behind and the exception passes on.
/// @throws Error naming the folder where it can't be written, or another process is writing it at the moment
void publish_folder(const std::filesystem::path& target,
                    const std::function<void(const std::filesystem::path&)>& write,
                    OldFolder old_folder = OldFolder::kReplace);

}  // namespace tessera
