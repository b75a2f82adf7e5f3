#include "data/image_list.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/mapped_file.h"
#include "core/text_file.h"
#include "data/file_pattern.h"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

bool is_image_name(const std::string& path) { return is_image_extension(lower_extension(path)); }

}  // namespace

ImageList ImageList::open(const std::vector<std::string>& words) {
  ImageList list;
  for (const std::string& word : words) {
    // A name may begin so too; where there is a file of both names, ./ in front makes the one of it.
    if (word.starts_with('@') && (fs::exists(word.substr(1)) || !fs::exists(word))) {
      list.add_lines(word.substr(1));
    } else {
      list.add(word);
    }
  }
  return list;
}

const std::string& ImageList::name(std::int64_t index) const {
  return entries_.at(static_cast<std::size_t>(index)).name;
}

std::vector<std::byte> ImageList::read(std::int64_t index) const {
  const Entry& entry = entries_.at(static_cast<std::size_t>(index));
  if (entry.tar != nullptr) return entry.tar->read(entry.member.offset, entry.member.size);
  return RegularFile(entry.name).read();
}

void ImageList::add(const std::string& word) {
  if (lower_extension(word) == "tar") {
    for (const fs::path& shard : expand_patterns({word})) add_tar(shard.string());
  } else if (fs::is_directory(word)) {
    add_folder(word);
  } else if (fs::exists(word)) {
    entries_.push_back({word, nullptr, {}});
  } else {
    fail("{}: no such file or folder", word);
  }
}

void ImageList::add_folder(const std::string& folder) {
  std::vector<std::string> files;
  LeftOut left_out;
  try {
    for (auto item = fs::recursive_directory_iterator(folder); item != fs::recursive_directory_iterator();
         ++item) {
      // What is above was named by the user, and may well be hidden.
      if (is_hidden(item->path().filename().string())) {
        left_out.add("hidden", item->path().string());
        item.disable_recursion_pending();
        continue;
      }
      std::error_code unreadable;
      const fs::file_status status = item->status(unreadable);
      if (fs::is_directory(status)) {
        // A link to a folder may lead back to where it stands.
        if (item->is_symlink()) left_out.add("links to folders", item->path().string());
      } else if (!fs::status_known(status)) {
        fail("{}: can't be looked at: {}", item->path().string(), unreadable.message());
      } else if (!fs::exists(status)) {
        left_out.add("links that lead nowhere", item->path().string());
      } else if (fs::is_regular_file(status) && is_image_name(item->path().string())) {
        files.push_back(item->path().string());
      } else {
        left_out.add_kind(item->path().string());
      }
    }
  } catch (const fs::filesystem_error& error) {
    fail("{}: {}", folder, error.what());
  }
  if (files.empty()) {
    fail("{}: there is no .jpg, .jpeg, .png or .webp file in this folder{}", folder,
         left_out.empty() ? "" : "; it has " + left_out.text());
  }
  left_out_.add(left_out);
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) entries_.push_back({file, nullptr, {}});
}

void ImageList::add_tar(const std::string& path) {
  const auto tar = std::make_shared<const RegularFile>(path);
  const TarIndex index = index_tar(MappedFile(*tar));
  for (const TarBreak& place : index.breaks) {
    damage_.push_back(fmt::format("{}: broken at byte {}: {}; {} bytes are left out", path, place.offset,
                                  place.what, place.left_out));
  }
  const std::size_t before = entries_.size();
  LeftOut left_out = left_out_of(index);
  const std::size_t below = common_folder(index.members).size();
  for (const TarMember& member : index.members) {
    if (is_hidden(std::string_view(member.name).substr(below))) {
      left_out.add("hidden", path + "/" + member.name);
    } else if (is_image_name(member.name)) {
      entries_.push_back({path + "/" + member.name, tar, member});
    } else {
      left_out.add_kind(member.name);
    }
  }
  if (entries_.size() == before) {
    fail("{}: there is no .jpg, .jpeg, .png or .webp in this tar{}", path,
         left_out.empty() ? "" : "; it has " + left_out.text());
  }
  left_out_.add(left_out);
}

void ImageList::add_lines(const std::string& path) {
  const std::size_t before = entries_.size();
  std::int64_t number = 0;
  for (const std::string& line : read_lines(path)) {
    ++number;
    if (line.empty()) continue;
    try {
      add(line);
    } catch (const Error& error) {
      fail("{}:{}: {}", path, number, error.what());
    }
  }
  if (entries_.size() == before) fail("{}: this list names no image", path);
}

}  // namespace tessera::data
