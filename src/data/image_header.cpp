#include "data/image_header.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string_view>

#include "core/error.h"
#include "core/file_kind.h"
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

/// Where an image's orientation stands: in the first EXIF data that has one, else in XMP.
class OrientationSearch {
 public:
  void look_at_exif(Bytes exif) {
    if (!exif_) exif_ = exif_orientation(exif);
  }
  void look_at_xmp(Bytes xmp) {
    if (!xmp_) xmp_ = xmp_orientation(xmp);
  }
  int found() const { return exif_.value_or(xmp_.value_or(1)); }

 private:
  std::optional<int> exif_;
  std::optional<int> xmp_;
};

ImageHeader inspect_jpeg(const ByteReader& reader) {
  constexpr std::uint32_t kApp1 = 0xe1;
  ImageHeader header;
  OrientationSearch orientation;
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
    // EXIF, XMP and others share the marker, in any order.
    if (marker == kApp1 && !any_scan && reader.has(at + 4, std::string_view("Exif\0\0", 6))) {
      orientation.look_at_exif(reader.chunk(at + 4, length - 2));
    } else if (marker == kApp1 && !any_scan && reader.has(at + 4, "http://ns.adobe.com/xap/1.0/")) {
      orientation.look_at_xmp(reader.chunk(at + 4, length - 2));
    }
    any_scan = any_scan || marker == 0xda;
    at += 2 + length;
  }
  if (!any_scan) fail("{}: a JPEG without image data", reader.name());
  header.orientation = orientation.found();
  return header;
}

/// The value that a grey PNG's tRNS names, as decoders widen it.
int transparent_grey(std::uint32_t value, std::uint32_t bit_depth) {
  const std::uint32_t largest = (1u << bit_depth) - 1;
  value &= largest;  // the others are to be passed over
  return static_cast<int>(bit_depth < 8 ? value * 255 / largest : value);
}

ImageHeader inspect_png(const ByteReader& reader) {
  if (!reader.has(12, "IHDR")) fail("{}: a PNG that doesn't begin with its header", reader.name());
  ImageHeader header{reader.big32(16), reader.big32(20)};
  const std::uint32_t bit_depth = reader.byte(24);
  const std::uint32_t colour_type = reader.byte(25);
  header.may_have_alpha = (colour_type & 4u) != 0;
  // Transparency of palettes and single colours stands in a chunk of its own before the image data.
  std::size_t at = 8;
  while (!reader.has(at + 4, "IDAT") && !reader.has(at + 4, "IEND")) {
    if (reader.has(at + 4, "tRNS")) {
      header.may_have_alpha = true;
      if (colour_type == 0 && bit_depth >= 1 && bit_depth <= 16 && reader.big32(at) >= 2) {
        header.transparent_grey = transparent_grey(reader.big16(at + 8), bit_depth);
      }
    }
    at += std::size_t{12} + reader.big32(at);
  }
  OrientationSearch orientation;
  for (at = 8; at + 8 <= reader.size(); at += std::size_t{12} + reader.big32(at)) {
    const Bytes chunk = reader.chunk(at + 8, reader.big32(at));
    if (reader.has(at + 4, "eXIf")) orientation.look_at_exif(chunk);
    if (reader.has(at + 4, "iTXt") && reader.has(at + 8, "XML:com.adobe.xmp")) orientation.look_at_xmp(chunk);
  }
  header.orientation = orientation.found();
  return header;
}

/// @param at  of the first ANMF chunk
FirstFrame first_frame(const ByteReader& reader, std::size_t at, const ImageHeader& canvas) {
  constexpr std::size_t kBeforeFrame = 16;  // place, size, duration and flags
  const std::size_t size = reader.little32(at + 4);
  FirstFrame frame{std::int64_t{2} * reader.little24(at + 8),
                   std::int64_t{2} * reader.little24(at + 11),
                   std::int64_t{1} + reader.little24(at + 14),
                   std::int64_t{1} + reader.little24(at + 17),
                   {}};
  const bool inside = frame.left + frame.width <= canvas.width && frame.top + frame.height <= canvas.height;
  if (size <= kBeforeFrame || !inside) {
    fail("{}: an animated WebP whose first frame is {}", reader.name(),
         inside ? "empty" : "not on its canvas");
  }
  frame.chunks = reader.chunk(at + 8 + kBeforeFrame, size - kBeforeFrame);
  return frame;
}

ImageHeader inspect_webp(const ByteReader& reader) {
  constexpr std::uint32_t kAnimation = 0x02, kAlpha = 0x10;
  ImageHeader header;
  if (reader.size() < std::size_t{8} + reader.little32(4)) reader.byte(reader.size());
  if (reader.has(12, "VP8X")) {
    const std::uint32_t flags = reader.byte(20);
    const bool animated = (flags & kAnimation) != 0;
    header.may_have_alpha = (flags & kAlpha) != 0;
    header.width = reader.little24(24) + 1;
    header.height = reader.little24(27) + 1;
    OrientationSearch orientation;
    for (std::size_t at = 12; at + 8 <= reader.size();) {
      const std::size_t size = reader.little32(at + 4);
      if (reader.has(at, "EXIF")) orientation.look_at_exif(reader.chunk(at + 8, size));
      if (reader.has(at, "XMP ")) orientation.look_at_xmp(reader.chunk(at + 8, size));
      if (animated && !header.first_frame && reader.has(at, "ANMF"))
        header.first_frame = first_frame(reader, at, header);
      at += 8 + size + size % 2;
    }
    header.orientation = orientation.found();
    if (animated && !header.first_frame) fail("{}: an animated WebP without a frame", reader.name());
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

/// What a file is that is none of the three, as far as its first bytes say.
std::string name_of_other(const ByteReader& reader, Bytes bytes) {
  const auto begins = [&](std::string_view text) { return reader.has(0, text); };
  if (begins("BM")) return "a BMP image";
  if (reader.has(4, "ftyphev")) return "a HEIC image";
  if (begins("\xff\x0a") || reader.has(4, "JXL ")) return "a JPEG XL image";
  if (reader.has(4, "jP  ")) return "a JPEG 2000 image";
  if (begins(std::string_view("\0\5\x16\7", 4))) return "an AppleDouble file, which macOS puts beside others";
  const std::string known = other_kind(bytes, {FileKind::kImage});
  return known.empty() ? fmt::format("{} other bytes", reader.size()) : known;
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
    fail("{}: expected a JPEG, PNG or WebP image, found {}", name, name_of_other(reader, bytes));
  }
  if (header.width <= 0 || header.height <= 0 || header.width > kMaxPixels / header.height) {
    fail("{}: an image of {} × {} pixels; between 1 and 2^27 are read", name, header.width, header.height);
  }
  return header;
}

}  // namespace tessera::data
