#include "fusion/fusion_config.h"

#include "core/config_rows.h"

namespace tessera::fusion {

ConfigRows config_rows(FusionConfig& fusion) {
  using namespace config_kinds;
  return rows(
      "Where image and text meet",
      {TESSERA_KEY(integer, fusion.embedding_size, {1, 1 << 16},
                   "Width of the image and text embeddings that ITC compares"),
       TESSERA_KEY(integer, fusion.token_size, {1, 1 << 16},
                   "Width of the patch and text-token embeddings that MaxSim compares"),
       TESSERA_KEY(integer, fusion.levels, {1, 1024},
                   "Image blocks, and as many top layers of the language model, that read each other"),
       TESSERA_KEY(integer, fusion.image_attention_heads, {1, 1024},
                   "Self-attention heads of an image block; compressor.output_size is a multiple of it"),
       TESSERA_KEY(integer, fusion.image_mlp_ratio, {1, 64},
                   "Width of an image block's feed-forward part, in compressor.output_size"),
       TESSERA_KEY(integer, fusion.cross_attention_heads, {1, 1024},
                   "Heads of the gated cross-attention, both ways; both widths are multiples of it"),
       TESSERA_KEY(
           words<lora::TrainableChoice>, fusion.trainable, lora::trainable_words(),
           "What of the fusion trains: nothing, LoRA adapters (fusion.lora), or all; none and lora go "
           "on from trained weights (init_from)"),
       TESSERA_SECTION(fusion.lora, "the fusion (fusion.trainable: lora)")});
}

}  // namespace tessera::fusion
