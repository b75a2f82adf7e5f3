#include "data/exif_orientation.h"

#include <cstdint>
#include <cstring>
#include <opencv2/core.hpp>

namespace tessera::data {
namespace {

/// Numbers of a TIFF structure in its own byte order; what lies outside is 0.
struct TiffReader {
  Bytes bytes;
  bool big_endian = false;

  std::uint32_t number(std::size_t at, std::size_t size) const {
    if (at > bytes.size() || bytes.size() - at < size) return 0;
    std::uint32_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
      value = value << 8 | std::to_integer<std::uint32_t>(bytes[at + (big_endian ? i : size - 1 - i)]);
    }
    return value;
  }
};

bool starts_with(Bytes bytes, const char* text, std::size_t size) {
  return bytes.size() >= size && std::memcmp(bytes.data(), text, size) == 0;
}

}  // namespace

int exif_orientation(Bytes exif) {
  constexpr std::uint32_t kOrientation = 0x0112;
  constexpr std::uint32_t kShort = 3;
  if (starts_with(exif, "Exif\0\0", 6)) exif = exif.subspan(6);
  const bool big_endian = starts_with(exif, "MM\0*", 4);
  if (!big_endian && !starts_with(exif, "II*\0", 4)) return 1;
  const TiffReader reader{exif, big_endian};
  const std::size_t directory = reader.number(4, 4);
  const std::uint32_t entries = reader.number(directory, 2);
  for (std::uint32_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + std::size_t{12} * i;
    if (reader.number(entry, 2) != kOrientation || reader.number(entry + 2, 2) != kShort) continue;
    const std::uint32_t value = reader.number(entry + 8, 2);
    return value >= 1 && value <= 8 ? static_cast<int>(value) : 1;
  }
  return 1;
}

cv::Mat upright(const cv::Mat& image, int orientation) {
  // From 5 on rows and columns are exchanged; what is left is a mirror, or two of them.
  constexpr int kAroundTheUpright = 1, kAroundTheLevel = 0, kBoth = -1, kNone = 2;
  constexpr int kFlips[] = {kNone, kAroundTheUpright, kBoth, kAroundTheLevel,
                            kNone, kAroundTheUpright, kBoth, kAroundTheLevel};
  cv::Mat result = image;
  if (orientation > 4) cv::transpose(image, result);
  const int flip = kFlips[orientation - 1];
  if (flip == kNone) return result;
  cv::Mat flipped;
  cv::flip(result, flipped, flip);
  return flipped;
}

}  // namespace tessera::data
