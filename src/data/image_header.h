#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "core/regular_file.h"

namespace tessera::data {

/// Larger images are neither read nor made.
inline constexpr std::int64_t kMaxPixels = std::int64_t{1} << 27;

/// The first frame of an animated WebP on its canvas.
struct FirstFrame {
  std::int64_t left = 0;  ///< pixels
  std::int64_t top = 0;
  std::int64_t width = 0;
  std::int64_t height = 0;
  Bytes chunks;  ///< its image data, with the alpha before it where there is any
};

/// What an encoded image says about itself before it is decoded.
struct ImageHeader {
  std::int64_t width = 0;  ///< pixels, as stored (before a rotation)
  std::int64_t height = 0;
  bool may_have_alpha = false;
  /// Of a grey PNG: the value that stands for transparency, as it is decoded to 8 bits, or 16 where it has
  /// them.
  std::optional<int> transparent_grey;
  std::optional<FirstFrame> first_frame;  ///< of an animated WebP
  int orientation = 1;                    ///< EXIF's, or else XMP's, 1 to 8
};

/// Reads format, size and orientation from an encoded image's own headers. A JPEG is walked up to its end
/// mark: decoders fill the missing part of a truncated one with whatever was there, and say nothing. Sources:
/// ITU-T T.81 annex B (JPEG), the PNG specification, RFC 9649 (WebP).
/// @param name  stands for the image in messages
/// @throws Error where it is none of the three formats, is cut short, or has no pixels or more than 2^27
ImageHeader inspect_image(Bytes bytes, const std::string& name);

}  // namespace tessera::data
