#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/regular_file.h"
#include "data/file_names.h"
#include "data/tar_index.h"

namespace tessera::data {

/// Images in files, folders and tars, in the order in which they were named.
class ImageList {
 public:
  /// What a user may name:
  ///   a file
  ///   a folder         its .jpg, .jpeg, .png and .webp files, also in folders below, sorted by path; hidden
  ///                    ones (file_names.h) are passed over
  ///   a .tar           the same of its members, in its order; with braces as in file_pattern.h
  ///   @FILE            a line of FILE for each of the above; empty lines are passed over. Where there is no
  ///                    FILE, the one of these that has @ in its name
  /// @throws Error naming what is absent, or holds no image
  static ImageList open(const std::vector<std::string>& words);

  std::int64_t size() const { return static_cast<std::int64_t>(entries_.size()); }
  /// A file's path, or TAR/MEMBER.
  const std::string& name(std::int64_t index) const;
  /// Places where a tar could not be read, and what was the matter.
  const std::vector<std::string>& damage() const { return damage_; }

  /// What folders and tars hold beside images that were taken; empty: nothing.
  std::string left_out() const { return left_out_.empty() ? std::string() : left_out_.text(); }

  /// An encoded image. Thread-safe. @throws Error naming the file that can't be read
  std::vector<std::byte> read(std::int64_t index) const;

 private:
  struct Entry {
    std::string name;
    std::shared_ptr<const RegularFile> tar;  ///< null: the image is a file
    TarMember member;
  };

  void add(const std::string& word);
  void add_folder(const std::string& folder);
  void add_tar(const std::string& path);
  void add_lines(const std::string& path);

  std::vector<Entry> entries_;
  std::vector<std::string> damage_;
  LeftOut left_out_;
};

}  // namespace tessera::data
