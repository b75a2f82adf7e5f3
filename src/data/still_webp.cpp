#include "data/still_webp.h"

#include <cstdint>
#include <cstring>
#include <string_view>

namespace tessera::data {

namespace {

void put(std::vector<std::byte>& bytes, std::string_view text) {
  for (const char letter : text) bytes.push_back(static_cast<std::byte>(letter));
}

void put_little(std::vector<std::byte>& bytes, std::uint64_t value, int count) {
  for (int i = 0; i < count; ++i) bytes.push_back(static_cast<std::byte>(value >> (8 * i) & 0xff));
}

}  // namespace

std::vector<std::byte> still_webp(const FirstFrame& frame) {
  constexpr std::uint64_t kAlpha = 0x10;
  constexpr std::uint64_t kExtendedHeader = 10;
  const bool alpha = frame.chunks.size() >= 4 && std::memcmp(frame.chunks.data(), "ALPH", 4) == 0;
  const std::uint64_t padding = frame.chunks.size() % 2;
  std::vector<std::byte> bytes;
  put(bytes, "RIFF");
  put_little(bytes, 4 + (alpha ? 8 + kExtendedHeader : 0) + frame.chunks.size() + padding, 4);
  put(bytes, "WEBP");
  // Alpha that stands beside the picture needs the extended form; a lossless picture has its own in it.
  if (alpha) {
    put(bytes, "VP8X");
    put_little(bytes, kExtendedHeader, 4);
    put_little(bytes, kAlpha, 4);
    put_little(bytes, static_cast<std::uint64_t>(frame.width - 1), 3);
    put_little(bytes, static_cast<std::uint64_t>(frame.height - 1), 3);
  }
  bytes.insert(bytes.end(), frame.chunks.begin(), frame.chunks.end());
  bytes.resize(bytes.size() + padding);
  return bytes;
}

}  // namespace tessera::data
