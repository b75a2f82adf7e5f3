#include "data/image_list.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <filesystem>

#include "core/error.h"
#include "core/text_file.h"
#include "data/shard_pattern.h"

namespace tessera::data {
namespace {

namespace fs = std::filesystem;

std::string lower_extension(const fs::path& path) {
  std::string extension = path.extension().string();
  std::transform(extension.begin(), extension.end(), extension.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return extension;
}

bool is_image_name(const fs::path& path) {
  constexpr std::array kExtensions = {".jpg", ".jpeg", ".png", ".webp"};
  return std::find(kExtensions.begin(), kExtensions.end(), lower_extension(path)) != kExtensions.end();
}

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

ImageList::Image ImageList::read(std::int64_t index) const {
  const Entry& entry = entries_.at(static_cast<std::size_t>(index));
  if (entry.tar != nullptr) {
    return {entry.tar->bytes().subspan(entry.member.offset, entry.member.size), entry.tar};
  }
  auto file = std::make_shared<const MappedFile>(entry.name);
  return {file->bytes(), file};
}

void ImageList::add(const std::string& word) {
  if (lower_extension(word) == ".tar") {
    for (const fs::path& shard : expand_shards({word})) add_tar(shard.string());
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
  try {
    for (const auto& item : fs::recursive_directory_iterator(folder)) {
      if (item.is_regular_file() && is_image_name(item.path())) files.push_back(item.path().string());
    }
  } catch (const fs::filesystem_error& error) {
    fail("{}: {}", folder, error.what());
  }
  if (files.empty()) fail("{}: there is no .jpg, .jpeg, .png or .webp file in this folder", folder);
  std::sort(files.begin(), files.end());
  for (const std::string& file : files) entries_.push_back({file, nullptr, {}});
}

void ImageList::add_tar(const std::string& path) {
  const auto tar = std::make_shared<const MappedFile>(path);
  const TarIndex index = index_tar(*tar);
  for (const TarBreak& place : index.breaks) {
    damage_.push_back(fmt::format("{}: at byte {}: {}", path, place.offset, place.what));
  }
  const std::size_t before = entries_.size();
  for (const TarMember& member : index.members) {
    if (is_image_name(member.name)) entries_.push_back({path + "/" + member.name, tar, member});
  }
  if (entries_.size() == before) fail("{}: there is no .jpg, .jpeg, .png or .webp in this tar", path);
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
