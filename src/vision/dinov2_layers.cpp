#include "vision/dinov2_layers.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <memory>
#include <vector>

#include "ops/activations.h"
#include "ops/attention.h"
#include "ops/linear.h"

namespace tessera::vision {

namespace {

torch::nn::LayerNorm layer_norm(const Dinov2Config& config) {
  return torch::nn::LayerNorm(torch::nn::LayerNormOptions({config.hidden_size}).eps(config.layer_norm_eps));
}

}  // namespace

at::Tensor interpolate_positions(const at::Tensor& position_embeddings, std::int64_t height,
                                 std::int64_t width, std::int64_t patch_size, PositionInterpolation variant) {
  TORCH_CHECK(
      position_embeddings.dim() == 3 && position_embeddings.size(0) == 1 && position_embeddings.size(1) > 1,
      "position embeddings [1, 1+G*G, C] expected, got ", position_embeddings.sizes());
  const std::int64_t positions = position_embeddings.size(1) - 1;
  const auto grid = static_cast<std::int64_t>(std::llround(std::sqrt(static_cast<double>(positions))));
  TORCH_CHECK(grid * grid == positions, "the number of patch positions must be a square, got ", positions);
  const std::int64_t rows = height / patch_size;
  const std::int64_t columns = width / patch_size;
  if (rows * columns == positions && height == width) {
    return position_embeddings;
  }
  const at::Tensor patches =
      position_embeddings.slice(1, 1).reshape({1, grid, grid, -1}).permute({0, 3, 1, 2}).to(at::kFloat);
  const std::array<std::int64_t, 2> size = {rows, columns};
  at::Tensor resized;
  switch (variant) {
    case PositionInterpolation::kScaleFactor: {
      // The tenth is facebookresearch/dinov2's guard against rounding down; the weights were used with it.
      const std::array<double, 2> scale = {(static_cast<double>(rows) + 0.1) / static_cast<double>(grid),
                                           (static_cast<double>(columns) + 0.1) / static_cast<double>(grid)};
      resized =
          at::upsample_bicubic2d(patches, std::nullopt, /*align_corners=*/false, at::ArrayRef<double>(scale));
      break;
    }
    case PositionInterpolation::kSize:
      resized = at::upsample_bicubic2d(patches, size, /*align_corners=*/false);
      break;
    case PositionInterpolation::kSizeAntialias:
      resized = at::_upsample_bicubic2d_aa(patches, size, /*align_corners=*/false);
      break;
    case PositionInterpolation::kAuto:
      TORCH_CHECK(false, "position interpolation must be resolved before it is used");
  }
  TORCH_INTERNAL_ASSERT(resized.size(2) == rows && resized.size(3) == columns);
  const at::Tensor patch_positions =
      resized.permute({0, 2, 3, 1}).reshape({1, rows * columns, -1}).to(position_embeddings.scalar_type());
  return at::cat({position_embeddings.slice(1, 0, 1), patch_positions}, 1);
}

PatchProjectionImpl::PatchProjectionImpl(const Dinov2Config& config) : patch_size_(config.patch_size) {
  weight = register_parameter("weight", at::zeros({config.hidden_size, 3, patch_size_, patch_size_}));
  bias = register_parameter("bias", at::zeros({config.hidden_size}));
}

at::Tensor PatchProjectionImpl::forward(const at::Tensor& pixels) {
  TORCH_CHECK(pixels.dim() == 4 && pixels.size(1) == 3, "DINOv2: pixels [B, 3, H, W] expected, got ",
              pixels.sizes());
  const std::int64_t rows = pixels.size(2) / patch_size_;
  const std::int64_t columns = pixels.size(3) / patch_size_;
  TORCH_CHECK(rows > 0 && columns > 0, "DINOv2: an image must hold a patch of ", patch_size_, " pixels, got ",
              pixels.sizes());
  const at::Tensor whole = pixels.slice(2, 0, rows * patch_size_).slice(3, 0, columns * patch_size_);
  const at::Tensor patches = whole.reshape({pixels.size(0), 3, rows, patch_size_, columns, patch_size_})
                                 .permute({0, 2, 4, 1, 3, 5})
                                 .reshape({pixels.size(0), rows * columns, 3 * patch_size_ * patch_size_});
  return ops::linear(patches, weight.flatten(1), bias);
}

Dinov2EmbeddingsImpl::Dinov2EmbeddingsImpl(const Dinov2Config& config, PositionInterpolation variant)
    : patch_size_(config.patch_size), variant_(variant) {
  const std::int64_t features = config.hidden_size;
  cls_token = register_parameter("cls_token", at::zeros({1, 1, features}));
  if (config.use_mask_token) {
    mask_token = register_parameter("mask_token", at::zeros({1, features}), /*requires_grad=*/false);
  }
  position_embeddings = register_parameter(
      "position_embeddings", at::zeros({1, 1 + config.grid_size() * config.grid_size(), features}));
  if (config.with_registers) {
    register_tokens =
        register_parameter("register_tokens", at::zeros({1, config.num_register_tokens, features}));
  }
  auto patch_embeddings = register_module("patch_embeddings", std::make_shared<torch::nn::Module>());
  projection_ = patch_embeddings->register_module("projection", PatchProjection(config));
}

at::Tensor Dinov2EmbeddingsImpl::forward(const at::Tensor& pixels) {
  const at::Tensor patches = projection_->forward(pixels);
  const at::Tensor positions =
      interpolate_positions(position_embeddings, pixels.size(2), pixels.size(3), patch_size_, variant_);
  const std::int64_t batch = pixels.size(0);
  std::vector<at::Tensor> parts = {(cls_token + positions.slice(1, 0, 1)).expand({batch, -1, -1})};
  if (register_tokens.defined()) {
    // Registers have no place in the image, hence no position.
    parts.push_back(register_tokens.expand({batch, -1, -1}));
  }
  parts.push_back(patches + positions.slice(1, 1));
  return at::cat(parts, 1);
}

Dinov2AttentionImpl::Dinov2AttentionImpl(const Dinov2Config& config)
    : heads_(config.num_attention_heads),
      query_(config.hidden_size, config.hidden_size, config.qkv_bias),
      key_(config.hidden_size, config.hidden_size, config.qkv_bias),
      value_(config.hidden_size, config.hidden_size, config.qkv_bias),
      dense_(config.hidden_size, config.hidden_size),
      query_key_value_({query_, key_, value_}) {
  auto projections = register_module("attention", std::make_shared<torch::nn::Module>());
  projections->register_module("query", query_);
  projections->register_module("key", key_);
  projections->register_module("value", value_);
  auto output = register_module("output", std::make_shared<torch::nn::Module>());
  output->register_module("dense", dense_);
}

at::Tensor Dinov2AttentionImpl::forward(const at::Tensor& hidden_states) {
  const std::int64_t batch = hidden_states.size(0);
  const std::int64_t length = hidden_states.size(1);
  const auto by_head = [&](const at::Tensor& projection) {
    return projection.unflatten(-1, {heads_, -1}).unflatten(0, {batch, length});
  };
  at::Tensor attended;
  if (!query_key_value_.is_one_product()) {
    const auto rows_of = [&](nn::Linear& linear) {
      return by_head(linear->forward(hidden_states).flatten(0, 1));
    };
    // One after the other: in which order a call's arguments are computed, and so what dropout draws, is the
    // compiler's affair.
    const at::Tensor query = rows_of(query_), key = rows_of(key_), value = rows_of(value_);
    attended = ops::attention(query, key, value);
  } else if (query_key_value_.has_active_adapter()) {
    const std::vector<at::Tensor> parts = query_key_value_.outputs(hidden_states.flatten(0, 1));
    attended = ops::attention(by_head(parts[0]), by_head(parts[1]), by_head(parts[2]));
  } else {
    attended = ops::self_attention(
        query_key_value_.base_products(hidden_states.flatten(0, 1)).view({batch, length, 3, heads_, -1}));
  }
  return dense_->forward(attended.reshape({batch, length, -1}));
}

Dinov2MlpImpl::Dinov2MlpImpl(const Dinov2Config& config) {
  const bool gated = config.use_swiglu_ffn;
  const std::int64_t width = config.intermediate_size();
  in_ = register_module(gated ? "gate_proj" : "fc1", nn::Linear(config.hidden_size, width));
  if (gated) {
    up_ = register_module("up_proj", nn::Linear(config.hidden_size, width));
    gate_up_.emplace(std::vector<nn::Linear>{in_, up_});
  }
  out_ = register_module(gated ? "weights_out" : "fc2", nn::Linear(width, config.hidden_size));
}

std::pair<at::Tensor, at::Tensor> Dinov2MlpImpl::gate_and_up(const at::Tensor& hidden_states) {
  if (gate_up_->has_active_adapter() || !gate_up_->is_one_product())
    return {in_->forward(hidden_states), up_->forward(hidden_states)};
  const std::vector<at::Tensor> halves = gate_up_->base_products(hidden_states).chunk(2, -1);
  return {halves[0], halves[1]};
}

at::Tensor Dinov2MlpImpl::forward(const at::Tensor& hidden_states) {
  if (!gate_up_) return out_->forward(at::gelu(in_->forward(hidden_states)));
  const auto [gate, up] = gate_and_up(hidden_states);
  return out_->forward(ops::swiglu(gate, up));
}

LayerScaleImpl::LayerScaleImpl(std::int64_t features) {
  lambda1 = register_parameter("lambda1", at::zeros({features}));
}

at::Tensor LayerScaleImpl::forward(const at::Tensor& residual, const at::Tensor& branch) {
  return at::addcmul(residual, branch, lambda1);
}

Dinov2LayerImpl::Dinov2LayerImpl(const Dinov2Config& config) {
  norm1_ = register_module("norm1", layer_norm(config));
  attention_ = register_module("attention", Dinov2Attention(config));
  layer_scale1_ = register_module("layer_scale1", LayerScale(config.hidden_size));
  norm2_ = register_module("norm2", layer_norm(config));
  mlp_ = register_module("mlp", Dinov2Mlp(config));
  layer_scale2_ = register_module("layer_scale2", LayerScale(config.hidden_size));
}

at::Tensor Dinov2LayerImpl::forward(const at::Tensor& hidden_states) {
  const at::Tensor attended =
      layer_scale1_->forward(hidden_states, attention_->forward(norm1_->forward(hidden_states)));
  return layer_scale2_->forward(attended, mlp_->forward(norm2_->forward(attended)));
}

}  // namespace tessera::vision
