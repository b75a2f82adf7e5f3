#pragma once

#include <cstdint>
#include <filesystem>
#include <opencv2/core/mat.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/regular_file.h"

namespace tessera::data {

/// A folder of its own for each test, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string file(const std::string& name) const { return (path_ / name).string(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

using Members = std::vector<std::pair<std::string, std::string>>;

/// Writes a tar and returns its path.
std::string write_tar(const std::string& path, const Members& members);
void write_bytes(const std::string& path, const std::string& bytes);
std::string read_bytes(const std::string& path);

/// A picture whose pixels differ with `tint` and place, encoded as ".jpg", ".png" or ".webp".
std::string encoded_image(const std::string& format, int tint, int width = 48, int height = 40);
std::string encode(const std::string& format, const cv::Mat& image);
Bytes as_bytes(const std::string& text);

/// KEY.jpg and KEY.json with an image id and two captions, for keys s00, s01, …
Members sound_samples(int count);

/// The text of the tessera::Error that `action` throws; "" where it throws none.
template <typename Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace tessera::data
