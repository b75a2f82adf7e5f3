#include "memory/memory_config.h"

#include "core/config_rows.h"

namespace tessera::memory {

ConfigRows config_rows(MemoryConfig& memory) {
  using namespace config_kinds;
  return rows(
      "Episodic memory of image-caption pairs",
      {TESSERA_KEY(integer, memory.slots, {1, 1 << 16},
                   "Rows of the memory; fewer than memory.code_size, or nothing could be forgotten"),
       TESSERA_KEY(integer, memory.code_size, {2, 1 << 16}, "Width of the code of an image-caption pair"),
       TESSERA_KEY(integer, memory.episode, {1, 1 << 16},
                   "Pairs written together in training; data.batch_size is a multiple of it"),
       TESSERA_KEY(number, memory.noise, kNonNegative,
                   "Standard deviation of the noise on codes in training"),
       TESSERA_KEY(number, memory.drop_text, kFraction,
                   "Share of the queries that are codes of the image alone"),
       TESSERA_KEY(number, memory.drop_image, kFraction,
                   "Share of the queries that are codes of the caption alone"),
       TESSERA_KEY(
           number, memory.caption_share, kFraction,
           "Share of the captions that are trained beside a read-out of an episode without their pair"),
       TESSERA_KEY(integer, memory.read_tokens, {1, 256}, "Tokens that a read-out becomes for the decoder")});
}

}  // namespace tessera::memory
