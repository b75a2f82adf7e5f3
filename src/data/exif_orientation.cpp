#include "data/exif_orientation.h"

#include <cstdint>
#include <cstring>
#include <opencv2/core.hpp>
#include <string_view>

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

int valid_orientation(std::uint32_t value) { return value >= 1 && value <= 8 ? static_cast<int>(value) : 1; }

}  // namespace

std::optional<int> exif_orientation(Bytes exif) {
  constexpr std::uint32_t kOrientation = 0x0112;
  if (starts_with(exif, "Exif\0\0", 6)) exif = exif.subspan(6);
  const bool big_endian = starts_with(exif, "MM\0*", 4);
  if (!big_endian && !starts_with(exif, "II*\0", 4)) return std::nullopt;
  const TiffReader reader{exif, big_endian};
  const std::size_t directory = reader.number(4, 4);
  const std::uint32_t entries = reader.number(directory, 2);
  for (std::uint32_t i = 0; i < entries; ++i) {
    const std::size_t entry = directory + 2 + std::size_t{12} * i;
    if (reader.number(entry, 2) != kOrientation) continue;
    // A short by the standard; writers have made it a byte or a long.
    constexpr std::uint32_t kByte = 1, kShort = 3, kLong = 4;
    const std::uint32_t type = reader.number(entry + 2, 2);
    if (type != kByte && type != kShort && type != kLong) return std::nullopt;
    return valid_orientation(reader.number(entry + 8, type == kByte ? 1 : type == kShort ? 2 : 4));
  }
  return std::nullopt;
}

std::optional<int> xmp_orientation(Bytes xmp) {
  const std::string_view text(reinterpret_cast<const char*>(xmp.data()), xmp.size());
  for (const std::string_view before : {"tiff:Orientation=\"", "tiff:Orientation='", "tiff:Orientation>"}) {
    const std::size_t at = text.find(before);
    if (at == std::string_view::npos || at + before.size() >= text.size()) continue;
    const char digit = text[at + before.size()];
    if (digit >= '0' && digit <= '9') return valid_orientation(static_cast<std::uint32_t>(digit - '0'));
  }
  return std::nullopt;
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
