#include "data/image_header.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "core/error.h"
#include "data/exif_orientation.h"

namespace tessera::data {
namespace {

/// Bounds-checked access to an image's bytes; running past the end means that the image is cut short.
class ByteReader {
 public:
  ByteReader(Bytes bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  std::size_t size() const { return bytes_.size(); }

  std::uint32_t byte(std::size_t at) const {
    if (at >= bytes_.size()) fail("{}: the image is cut short after {} bytes", name_, bytes_.size());
    return std::to_integer<std::uint32_t>(bytes_[at]);
  }
  std::uint32_t big16(std::size_t at) const { return byte(at) << 8 | byte(at + 1); }
  std::uint32_t big32(std::size_t at) const { return big16(at) << 16 | big16(at + 2); }
  std::uint32_t little16(std::size_t at) const { return byte(at + 1) << 8 | byte(at); }
  std::uint32_t little24(std::size_t at) const { return byte(at + 2) << 16 | little16(at); }
  std::uint32_t little32(std::size_t at) const { return little16(at + 2) << 16 | little16(at); }

  bool has(std::size_t at, std::string_view text) const {
    return at + text.size() <= bytes_.size() &&
           std::memcmp(bytes_.data() + at, text.data(), text.size()) == 0;
  }

  /// The next marker (0xFF followed by neither 0 nor a fill byte nor a restart) at or after `at`.
  std::size_t next_marker(std::size_t at) const {
    while (true) {
      const void* found =
          at < bytes_.size() ? std::memchr(bytes_.data() + at, 0xff, bytes_.size() - at) : nullptr;
      if (found == nullptr) byte(bytes_.size());
      at = static_cast<std::size_t>(static_cast<const std::byte*>(found) - bytes_.data());
      const std::uint32_t code = byte(at + 1);
      if (code != 0x00 && code != 0xff && (code < 0xd0 || code > 0xd7)) return at;
      at += code == 0xff ? 1 : 2;
    }
  }

  const std::string& name() const { return name_; }

  /// As much of a chunk as there is.
  Bytes chunk(std::size_t at, std::size_t size) const {
    return at < bytes_.size() ? bytes_.subspan(at, std::min(size, bytes_.size() - at)) : Bytes();
  }

 private:
  Bytes bytes_;
  const std::string& name_;
};

bool is_start_of_frame(std::uint32_t marker) {
  // C4, C8 and CC lie in the range and mean other things.
  return marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc;
}

ImageHeader inspect_jpeg(const ByteReader& reader) {
  ImageHeader header{ImageFormat::kJpeg};
  bool any_scan = false;
  std::size_t at = 2;
  while (true) {
    at = reader.next_marker(at);
    const std::uint32_t marker = reader.byte(at + 1);
    if (marker == 0xd9) break;
    if (marker == 0x01 || marker == 0xd8) {
      at += 2;
      continue;
    }
    const std::uint32_t length = reader.big16(at + 2);
    if (length < 2) fail("{}: a JPEG segment of length {} at byte {}", reader.name(), length, at);
    if (is_start_of_frame(marker)) {
      header.height = reader.big16(at + 5);
      header.width = reader.big16(at + 7);
    }
    any_scan = any_scan || marker == 0xda;
    at += 2 + length;
  }
  if (!any_scan) fail("{}: a JPEG without image data", reader.name());
  return header;
}

ImageHeader inspect_png(const ByteReader& reader) {
  if (!reader.has(12, "IHDR")) fail("{}: a PNG that doesn't begin with its header", reader.name());
  ImageHeader header{ImageFormat::kPng, reader.big32(16), reader.big32(20)};
  header.may_have_alpha = (reader.byte(25) & 4u) != 0;
  // Transparency of palettes and single colours stands in a chunk of its own before the image data.
  std::size_t at = 8;
  while (!reader.has(at + 4, "IDAT") && !reader.has(at + 4, "IEND")) {
    header.may_have_alpha = header.may_have_alpha || reader.has(at + 4, "tRNS");
    at += std::size_t{12} + reader.big32(at);
  }
  for (at = 8; at + 8 <= reader.size(); at += std::size_t{12} + reader.big32(at)) {
    if (reader.has(at + 4, "eXIf"))
      header.orientation = exif_orientation(reader.chunk(at + 8, reader.big32(at)));
  }
  return header;
}

ImageHeader inspect_webp(const ByteReader& reader) {
  ImageHeader header{ImageFormat::kWebp};
  if (reader.size() < std::size_t{8} + reader.little32(4)) reader.byte(reader.size());
  if (reader.has(12, "VP8X")) {
    header.may_have_alpha = (reader.byte(20) & 0x10u) != 0;
    header.width = reader.little24(24) + 1;
    header.height = reader.little24(27) + 1;
    for (std::size_t at = 12; at + 8 <= reader.size();) {
      const std::size_t size = reader.little32(at + 4);
      if (reader.has(at, "EXIF")) header.orientation = exif_orientation(reader.chunk(at + 8, size));
      at += 8 + size + size % 2;
    }
  } else if (reader.has(12, "VP8L")) {
    const std::uint32_t bits = reader.little32(21);
    header.width = (bits & 0x3fffu) + 1;
    header.height = (bits >> 14 & 0x3fffu) + 1;
    header.may_have_alpha = (bits >> 28 & 1u) != 0;
  } else if (reader.has(12, "VP8 ")) {
    header.width = reader.little16(26) & 0x3fffu;
    header.height = reader.little16(28) & 0x3fffu;
  } else {
    fail("{}: a WebP file without an image", reader.name());
  }
  return header;
}

}  // namespace

ImageHeader inspect_image(Bytes bytes, const std::string& name) {
  const ByteReader reader(bytes, name);
  ImageHeader header;
  if (reader.has(0, "\xff\xd8\xff")) {
    header = inspect_jpeg(reader);
  } else if (reader.has(0, "\x89PNG\r\n\x1a\n")) {
    header = inspect_png(reader);
  } else if (reader.has(0, "RIFF") && reader.has(8, "WEBP")) {
    header = inspect_webp(reader);
  } else {
    fail("{}: expected a JPEG, PNG or WebP image, found {} other bytes", name, bytes.size());
  }
  if (header.width <= 0 || header.height <= 0 || header.width > kMaxPixels / header.height) {
    fail("{}: an image of {} × {} pixels; between 1 and 2^27 are read", name, header.width, header.height);
  }
  return header;
}

}  // namespace tessera::data
