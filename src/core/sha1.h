#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace tessera {

/// SHA-1 (FIPS 180-4) over a stream of bytes. For telling contents apart, not for security.
class Sha1 {
 public:
  void update(const void* data, std::size_t size);
  /// 40 digits. Nothing may be added afterwards.
  std::string hex_digest();

 private:
  void process_block();

  std::array<std::uint32_t, 5> state_{0x67452301u, 0xEFCDAB89u, 0x98BADCFEu, 0x10325476u, 0xC3D2E1F0u};
  std::array<std::uint8_t, 64> block_{};
  std::size_t filled_ = 0;
  std::uint64_t length_ = 0;
};

}  // namespace tessera
