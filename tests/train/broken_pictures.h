#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "core/files.h"

namespace tessera::train {

/// Copies a tar, with the content of its first `count` pictures gone.
inline void break_pictures(const std::filesystem::path& from, const std::filesystem::path& to, int count) {
  constexpr std::size_t kTarBlock = 512;
  std::string tar = read_file(from);
  for (std::size_t block = 0; count > 0 && block + kTarBlock < tar.size(); block += kTarBlock) {
    const std::string start = tar.substr(block, 4);
    if (start != "\x89PNG" && start.substr(0, 3) != "\xff\xd8\xff") continue;
    tar.replace(block, 64, std::string(64, '\0'));
    --count;
  }
  ASSERT_EQ(count, 0) << from << " holds too few pictures";
  write_file_atomically(to, tar);
}

}  // namespace tessera::train
