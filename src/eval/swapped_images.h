#pragma once

#include <cstdint>

namespace tessera::eval {

/// The control of a figure: the same with each image replaced by another. Which one is fixed, half the set
/// further on, and never the image itself.
/// @param images  at least 2
constexpr std::int64_t swapped_image(std::int64_t image, std::int64_t images) {
  return (image + images / 2) % images;
}

}  // namespace tessera::eval
