#include "vision/vision_config.h"

#include "core/config_rows.h"

namespace tessera::vision {

ConfigRows config_rows(VisionConfig& vision) {
  using namespace config_kinds;
  return rows(
      "The image encoder, a DINOv2",
      {TESSERA_GROUP(vision.architecture,
                     "Used where vision.weights is random; names as in a Hugging Face config.json"),
       TESSERA_KEY(
           text, vision.weights, TextKind::kInputPathOrRandom,
           "DINOv2: a Hugging Face folder, a .safetensors, .bin, .pth or .pt file (facebook's too); random: "
           "vision.architecture, drawn from the seed"),
       TESSERA_KEY(words<lora::TrainableChoice>, vision.trainable, lora::trainable_words(),
                   "What of the encoder trains: nothing, LoRA adapters (two phases), or all of it"),
       TESSERA_KEY(
           words<PositionInterpolation>, vision.position_interpolation,
           {{"auto", PositionInterpolation::kAuto},
            {"scale_factor", PositionInterpolation::kScaleFactor},
            {"size", PositionInterpolation::kSize},
            {"size_antialias", PositionInterpolation::kSizeAntialias}},
           "How position embeddings are brought to another image size; auto: as the weights were trained"),
       TESSERA_KEY(
           boolean, vision.gradient_checkpointing,
           "Keep the encoder's blocks' inputs alone and compute the rest again backwards: less memory, more "
           "time"),
       TESSERA_KEY(integer, vision.architecture.hidden_size, {1, 1 << 16}, "Width of a token"),
       TESSERA_KEY(integer, vision.architecture.num_hidden_layers, {1, 1024}, "Transformer layers"),
       TESSERA_KEY(integer, vision.architecture.num_attention_heads, {1, 1024},
                   "Attention heads; hidden_size is a multiple of it"),
       TESSERA_KEY(integer, vision.architecture.mlp_ratio, {1, 64},
                   "Width of the feed-forward part, in hidden sizes"),
       TESSERA_KEY(integer, vision.architecture.image_size, {1, 4096},
                   "Pixels of a side for which position embeddings are stored; a multiple of patch_size"),
       TESSERA_KEY(integer, vision.architecture.patch_size, {1, 256}, "Pixels of a patch's side"),
       TESSERA_KEY(integer, vision.architecture.num_register_tokens, {0, 1024},
                   "Register tokens after [CLS]"),
       TESSERA_KEY(number, vision.architecture.layerscale_value, kPositive,
                   "Initial value of the LayerScale factors"),
       TESSERA_KEY(number, vision.architecture.layer_norm_eps, kPositive,
                   "Added to the variance in layer norms")});
}

ConfigRows config_rows(CompressorConfig& compressor) {
  using namespace config_kinds;
  return rows(
      "From the encoder's tokens to few numbers a token",
      {TESSERA_KEY(integer, compressor.hidden_size, {1, 1 << 16}, "Width between its two layers"),
       TESSERA_KEY(integer, compressor.output_size, {1, 1 << 16}, "Width of a compressed image token"),
       TESSERA_KEY(number, compressor.dropout, kBelowOne, "Dropout between its two layers")});
}

}  // namespace tessera::vision
