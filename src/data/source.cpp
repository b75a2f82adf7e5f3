#include "data/source.h"

namespace tessera::data {

std::int64_t image_id_number(std::string_view image_id) {
  std::uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a, 64 bits
  for (const char c : image_id) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3u;
  }
  // FNV's high bits mix slowly for short ids; the shifts of MurmurHash3's finaliser spread them.
  hash ^= hash >> 33;
  hash *= 0xff51afd7ed558ccdu;
  hash ^= hash >> 33;
  hash *= 0xc4ceb9fe1a85ec53u;
  hash ^= hash >> 33;
  return static_cast<std::int64_t>(hash >> 1);
}

}  // namespace tessera::data
