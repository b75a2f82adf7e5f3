#pragma once

#include <cstddef>
#include <vector>

#include "data/image_header.h"

namespace tessera::data {

/// A frame of an animated WebP as a WebP file of its own, for decoders that know no animation. Source: RFC
/// 9649, section 2.7.
std::vector<std::byte> still_webp(const FirstFrame& frame);

}  // namespace tessera::data
