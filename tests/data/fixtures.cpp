#include "tests/data/fixtures.h"

#include <unistd.h>

#include <atomic>
#include <fstream>
#include <opencv2/imgcodecs.hpp>
#include <sstream>

#include "data/tar_writer.h"

namespace tessera::data {

TemporaryFolder::TemporaryFolder() {
  static std::atomic<int> count{0};
  path_ = std::filesystem::temp_directory_path() / fmt::format("tessera-data-{}-{}", ::getpid(), count++);
  std::filesystem::create_directories(path_);
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string write_tar(const std::string& path, const Members& members) {
  TarWriter tar(path);
  for (const auto& [name, content] : members) tar.add(name, content);
  tar.finish();
  return path;
}

void write_bytes(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

std::string read_bytes(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

std::string encode(const std::string& format, const cv::Mat& image) {
  std::vector<unsigned char> bytes;
  if (!cv::imencode(format, image, bytes)) throw std::runtime_error("can't encode " + format);
  return {bytes.begin(), bytes.end()};
}

std::string encoded_image(const std::string& format, int tint, int width, int height) {
  cv::Mat image(height, width, CV_8UC3);
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      image.at<cv::Vec3b>(y, x) =
          cv::Vec3b(cv::saturate_cast<uchar>(40 + 4 * x), cv::saturate_cast<uchar>(40 + 5 * y),
                    cv::saturate_cast<uchar>(60 + 37 * tint % 190));
    }
  }
  return encode(format, image);
}

Bytes as_bytes(const std::string& text) { return std::as_bytes(std::span(text)); }

Members sound_samples(int count) {
  Members members;
  for (int i = 0; i < count; ++i) {
    members.emplace_back(fmt::format("s{:02}.jpg", i), encoded_image(".jpg", i));
    members.emplace_back(
        fmt::format("s{:02}.json", i),
        fmt::format(R"({{"image_id": "image-{0}", "captions": ["first of {0}", "second of {0}"]}})", i));
  }
  return members;
}

}  // namespace tessera::data
