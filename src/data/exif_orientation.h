#pragma once

#include <opencv2/core/mat.hpp>
#include <optional>

#include "core/regular_file.h"

namespace tessera::data {

/// The orientation (tag 0x112 of the first directory) that EXIF data asks for, 1 to 8 (another value: 1);
/// nothing where it says none or can't be read: metadata is no reason to refuse an image. Source: JEITA
/// CP-3451, TIFF 6.0.
/// @param exif  from its TIFF header on, or from the "Exif\0\0" before it
std::optional<int> exif_orientation(Bytes exif);

/// The same of an XMP packet's tiff:Orientation, as an attribute or an element. EXIF goes before it.
std::optional<int> xmp_orientation(Bytes xmp);

/// An image turned as its orientation asks for.
cv::Mat upright(const cv::Mat& image, int orientation);

}  // namespace tessera::data
