#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tessera {

/// A number as zip and pickle have them, little-endian.
inline std::string little_endian(std::uint64_t value, int size) {
  std::string bytes;
  for (int i = 0; i < size; ++i, value >>= 8) bytes.push_back(static_cast<char>(value & 0xff));
  return bytes;
}

using ZipContents = std::vector<std::pair<std::string, std::string>>;

/// A zip archive of stored members, the plain kind without zip64, aligned to nothing.
inline std::string zip_of(const ZipContents& contents, int method = 0) {
  std::string file;
  std::string directory;
  for (const auto& [name, content] : contents) {
    const std::string sizes = little_endian(content.size(), 4) + little_endian(content.size(), 4);
    const std::string common = little_endian(20, 2) + little_endian(0, 2) +
                               little_endian(static_cast<std::uint64_t>(method), 2) + little_endian(0, 8) +
                               sizes + little_endian(name.size(), 2) + little_endian(0, 2);
    directory += little_endian(0x02014b50, 4) + little_endian(20, 2) + common + little_endian(0, 10) +
                 little_endian(file.size(), 4) + name;
    file += little_endian(0x04034b50, 4) + common + name + content;
  }
  const std::uint64_t begin = file.size();
  return file + directory + little_endian(0x06054b50, 4) + little_endian(0, 4) +
         little_endian(contents.size(), 2) + little_endian(contents.size(), 2) +
         little_endian(directory.size(), 4) + little_endian(begin, 4) + little_endian(0, 2);
}

}  // namespace tessera
