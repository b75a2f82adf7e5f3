#pragma once

#include <cstdint>
#include <string>

#include "core/mapped_file.h"

namespace tessera::data {

/// Larger images are neither read nor made.
inline constexpr std::int64_t kMaxPixels = std::int64_t{1} << 27;

enum class ImageFormat { kJpeg, kPng, kWebp };

/// What an encoded image says about itself before it is decoded.
struct ImageHeader {
  ImageFormat format = ImageFormat::kJpeg;
  std::int64_t width = 0;  ///< pixels, as stored (before an EXIF rotation)
  std::int64_t height = 0;
  bool may_have_alpha = false;
  int orientation = 1;  ///< EXIF's, 1 to 8, of a PNG or WebP; a JPEG's is left to its decoder
};

/// Reads format and size from an encoded image's own headers. A JPEG is walked up to its end mark: decoders
/// fill the missing part of a truncated one with whatever was there, and say nothing. Sources: ITU-T T.81
/// annex B (JPEG), the PNG specification, RFC 9649 (WebP).
/// @param name  stands for the image in messages
/// @throws Error where it is none of the three formats, is cut short, or has no pixels or more than 2^27
ImageHeader inspect_image(Bytes bytes, const std::string& name);

}  // namespace tessera::data
