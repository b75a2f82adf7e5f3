#include "vision/facebook_weights.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <optional>
#include <string_view>
#include <utility>

#include "core/error.h"

namespace tessera::vision {

namespace {

constexpr std::int64_t kHeadSize = 64;  // of every published DINOv2
constexpr std::string_view kBlocks = "blocks.";

/// The number before the next dot, which is taken off with it.
std::optional<std::int64_t> take_number(std::string_view& name) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), value);
  if (error != std::errc{} || value < 0 || end == name.data() + name.size() || *end != '.') return {};
  name.remove_prefix(static_cast<std::size_t>(end - name.data()) + 1);
  return value;
}

struct BlockName {
  std::int64_t index;
  std::string_view rest;
};

/// "blocks.3.norm1.weight" and "blocks.1.3.norm1.weight" → 3, "norm1.weight".
std::optional<BlockName> block_name(std::string_view name) {
  if (!name.starts_with(kBlocks)) return {};
  name.remove_prefix(kBlocks.size());
  std::optional<std::int64_t> index = take_number(name);
  if (!index) return {};
  if (const auto inner = take_number(name)) index = inner;
  return BlockName{*index, name};
}

/// Names of modules and parameters; the longest comes first where one begins another.
constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kOutside = {{
    {"cls_token", "embeddings.cls_token"},
    {"mask_token", "embeddings.mask_token"},
    {"register_tokens", "embeddings.register_tokens"},
    {"pos_embed", "embeddings.position_embeddings"},
    {"patch_embed.proj.weight", "embeddings.patch_embeddings.projection.weight"},
    {"patch_embed.proj.bias", "embeddings.patch_embeddings.projection.bias"},
    {"norm.", "layernorm."},
}};

constexpr std::array<std::pair<std::string_view, std::string_view>, 5> kInBlock = {{
    {"attn.proj.", "attention.output.dense."},
    {"ls1.gamma", "layer_scale1.lambda1"},
    {"ls2.gamma", "layer_scale2.lambda1"},
    {"mlp.w12.", "mlp.weights_in."},
    {"mlp.w3.", "mlp.weights_out."},
}};

template <std::size_t N>
std::string renamed(std::string_view name,
                    const std::array<std::pair<std::string_view, std::string_view>, N>& table) {
  for (const auto& [from, to] : table) {
    if (from.back() == '.' ? name.starts_with(from) : name == from) {
      return std::string(to) + std::string(name.substr(from.size()));
    }
  }
  return std::string(name);
}

/// Without "backbone.", which facebook's training puts in front beside heads, and without these.
TensorMap without_prefix(const TensorMap& tensors, const std::string& source) {
  static const std::string kBackbone = "backbone.";
  const bool has_backbone = std::any_of(tensors.begin(), tensors.end(),
                                        [](const auto& named) { return named.first.starts_with(kBackbone); });
  if (!has_backbone) return tensors;
  TensorMap backbone;
  for (const auto& [name, tensor] : tensors) {
    if (name.starts_with("dino_head.") || name.starts_with("ibot_head.")) continue;
    const std::string inner = name.starts_with(kBackbone) ? name.substr(kBackbone.size()) : name;
    if (!backbone.emplace(inner, tensor).second) {
      fail("{}: {} is there under two names", source, quoted(inner));
    }
  }
  return backbone;
}

/// Hugging Face's keys; attn.qkv becomes three views.
TensorMap renamed_tensors(const TensorMap& tensors, const std::string& source) {
  TensorMap result;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    if (!result.emplace(name, tensor).second) fail("{}: {} is there under two names", source, quoted(name));
  };
  for (const auto& [name, tensor] : tensors) {
    const auto block = block_name(name);
    if (!block) {
      add(renamed(name, kOutside), tensor);
      continue;
    }
    const std::string layer = fmt::format("encoder.layer.{}.", block->index);
    constexpr std::string_view kJoined = "attn.qkv.";
    if (!block->rest.starts_with(kJoined)) {
      add(layer + renamed(block->rest, kInBlock), tensor);
      continue;
    }
    if (tensor.dim() == 0 || tensor.size(0) % 3 != 0) {
      fail("{}: {}: expected a multiple of 3 rows (query, key and value), found shape [{}]", source,
           quoted(name), fmt::join(tensor.sizes(), ", "));
    }
    const std::int64_t rows = tensor.size(0) / 3;
    const std::string kind(block->rest.substr(kJoined.size()));
    const std::string attention = layer + "attention.attention.";
    add(attention + "query." + kind, tensor.narrow(0, 0, rows));
    add(attention + "key." + kind, tensor.narrow(0, rows, rows));
    add(attention + "value." + kind, tensor.narrow(0, 2 * rows, rows));
  }
  return result;
}

/// Reads a configuration off the shapes of tensors, under Hugging Face's keys.
class ShapeReader {
 public:
  ShapeReader(const TensorMap& tensors, const std::string& source) : tensors_(tensors), source_(source) {}

  Dinov2Config config() const {
    Dinov2Config config;
    // These two no file of theirs says; all of them have the same eps, and LayerScale's factors are weights.
    config.layer_norm_eps = 1e-6;
    config.layerscale_value = 1.0;
    config.hidden_size = shape("embeddings.cls_token", 3, "cls_token")[2];
    if (config.hidden_size == 0 || config.hidden_size % kHeadSize != 0) {
      fail("{}: cls_token: expected a multiple of {} channels (a head has {}), found {}", source_, kHeadSize,
           kHeadSize, config.hidden_size);
    }
    config.num_attention_heads = config.hidden_size / kHeadSize;
    config.patch_size =
        shape("embeddings.patch_embeddings.projection.weight", 4, "patch_embed.proj.weight")[3];
    const std::int64_t positions = shape("embeddings.position_embeddings", 3, "pos_embed")[1] - 1;
    const auto grid = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(positions))));
    if (positions < 1 || grid * grid != positions) {
      fail("{}: pos_embed: expected one position and those of a square grid, found {}", source_,
           positions + 1);
    }
    if (config.patch_size < 1 || config.patch_size > 4096 || grid > 4096) {
      fail("{}: patches of {} pixels in a grid of {} are no model's", source_, config.patch_size, grid);
    }
    config.image_size = grid * config.patch_size;
    config.num_hidden_layers = layers();
    config.with_registers = tensors_.count("embeddings.register_tokens") != 0;
    if (config.with_registers) {
      config.num_register_tokens = shape("embeddings.register_tokens", 3, "register_tokens")[1];
    }
    config.qkv_bias = tensors_.count("encoder.layer.0.attention.attention.query.bias") != 0;
    set_feed_forward(config);
    config.position_interpolation =
        config.with_registers ? PositionInterpolation::kSizeAntialias : PositionInterpolation::kScaleFactor;
    config.check(source_);
    check_extent(config);
    return config;
  }

 private:
  at::IntArrayRef shape(const char* key, std::size_t rank, const char* facebook_name) const {
    const auto found = tensors_.find(key);
    if (found == tensors_.end()) fail("{}: missing: {}", source_, facebook_name);
    if (found->second.sizes().size() != rank) {
      fail("{}: {}: expected {} dimensions, found shape [{}]", source_, facebook_name, rank,
           fmt::join(found->second.sizes(), ", "));
    }
    return found->second.sizes();
  }

  /// The most that the names say; where layers are missing below it, that is found when they are copied.
  std::int64_t layers() const {
    static const std::string kLayer = "encoder.layer.";
    std::int64_t layers = 0;
    for (const auto& [name, tensor] : tensors_) {
      if (!name.starts_with(kLayer)) continue;
      std::string_view rest = std::string_view(name).substr(kLayer.size());
      layers = std::max(layers, take_number(rest).value_or(-1) + 1);
    }
    // As many as there are tensors, and no more than a name pretends to.
    if (layers < 1 || layers > static_cast<std::int64_t>(tensors_.size())) {
      fail("{}: expected blocks 0, 1, …, found {} in {} tensors", source_, layers, tensors_.size());
    }
    return layers;
  }

  void set_feed_forward(Dinov2Config& config) const {
    config.use_swiglu_ffn = tensors_.count("encoder.layer.0.mlp.weights_in.weight") != 0;
    const auto hidden = static_cast<double>(config.hidden_size);
    if (!config.use_swiglu_ffn) {
      config.mlp_ratio =
          static_cast<double>(shape("encoder.layer.0.mlp.fc1.weight", 2, "blocks.0.mlp.fc1.weight")[0]) /
          hidden;
      return;
    }
    const std::int64_t width =
        shape("encoder.layer.0.mlp.weights_out.weight", 2, "blocks.0.mlp.w3.weight")[1];
    // Two thirds of mlp_ratio, rounded up to a multiple of 8, so that the published 4 gives many widths.
    config.mlp_ratio = 4;
    if (config.intermediate_size() != width) config.mlp_ratio = static_cast<double>(width) * 1.5 / hidden;
    if (config.intermediate_size() != width) {
      fail("{}: blocks.0.mlp.w3.weight: SwiGLU's width has to be a multiple of 8, found {}", source_, width);
    }
  }

  /// A model is as large as its file: without that, a few bytes could ask for any amount of memory. Counted
  /// generously, so that a file in which tensors are missing gets as far as the list of them.
  void check_extent(const Dinov2Config& config) const {
    double held = 0;
    for (const auto& [name, tensor] : tensors_) held += static_cast<double>(tensor.numel());
    const auto hidden = static_cast<double>(config.hidden_size);
    const auto grid = static_cast<double>(config.grid_size());
    const auto patch = static_cast<double>(config.patch_size);
    const double block = 4 * hidden + static_cast<double>(config.intermediate_size());
    const double expected =
        hidden * (static_cast<double>(config.num_hidden_layers) * block + grid * grid + 3 * patch * patch);
    if (held < expected) {
      fail("{}: names {} blocks of width {}, but all its tensors hold {} numbers", source_,
           config.num_hidden_layers, config.hidden_size, held);
    }
  }

  const TensorMap& tensors_;
  const std::string& source_;
};

}  // namespace

bool has_facebook_names(const TensorMap& tensors) {
  return std::any_of(tensors.begin(), tensors.end(), [](const auto& named) {
    std::string_view name = named.first;
    constexpr std::string_view kPrefix = "backbone.";
    if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
    return name == "pos_embed" || name == "patch_embed.proj.weight" || block_name(name).has_value();
  });
}

FacebookWeights from_facebook(const TensorMap& tensors, const std::string& source) {
  TensorMap renamed = renamed_tensors(without_prefix(tensors, source), source);
  Dinov2Config config = ShapeReader(renamed, source).config();
  return {config, std::move(renamed)};
}

}  // namespace tessera::vision
