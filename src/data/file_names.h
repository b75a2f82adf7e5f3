#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/tar_index.h"

namespace tessera::data {

// Which files of a folder or tar are pictures, and which are passed over: one rule for all that reads them.

/// The letters after the last dot of a path's last part, in lower case; empty where there are none.
std::string lower_extension(std::string_view path);

/// jpg, jpeg, png or webp.
bool is_image_extension(std::string_view extension);

/// Whether programs put it there for themselves: a part of the path begins with a dot (.DS_Store, the
/// AppleDouble ._NAME beside NAME, .ipynb_checkpoints/), or is __MACOSX or @eaDir.
/// @param path  below the folder or tar that was named; "." and ".." are no hidden parts
bool is_hidden(std::string_view path);

/// The folder that all of these lie in, with its last '/'; empty where there is none. Who packs a tar names
/// that folder, and it may well be hidden.
std::string common_folder(const std::vector<TarMember>& members);

/// Counts files that are left out, by why, for the line that says so.
class LeftOut {
 public:
  /// @param reason  as it reads after a number: "hidden", "without captions"
  void add(const std::string& reason, const std::string& example, std::int64_t count = 1);
  /// A file that is of no kind that is read: counted by its extension.
  void add_kind(std::string_view path);
  void add(const LeftOut& other);

  bool empty() const { return reasons_.empty() && kinds_.empty(); }
  /// "3 hidden (such as '._x.png'), 12 of other kinds (.cls 10, no extension 2)"
  std::string text() const;

 private:
  struct Reason {
    std::int64_t count = 0;
    std::string example;
  };
  std::map<std::string, Reason> reasons_;
  std::map<std::string, std::int64_t> kinds_;
};

/// What a tar holds that is no member of its index.
LeftOut left_out_of(const TarIndex& index);

}  // namespace tessera::data
