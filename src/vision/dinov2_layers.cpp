#include "vision/dinov2_layers.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>
#include <memory>

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

Dinov2AttentionImpl::Dinov2AttentionImpl(const Dinov2Config& config) : heads_(config.num_attention_heads) {
  const std::int64_t features = config.hidden_size;
  auto projections = register_module("attention", std::make_shared<torch::nn::Module>());
  query_ = projections->register_module("query", nn::Linear(features, features, config.qkv_bias));
  key_ = projections->register_module("key", nn::Linear(features, features, config.qkv_bias));
  value_ = projections->register_module("value", nn::Linear(features, features, config.qkv_bias));
  auto output = register_module("output", std::make_shared<torch::nn::Module>());
  dense_ = output->register_module("dense", nn::Linear(features, features));
  Dinov2AttentionImpl::pack();
}

void Dinov2AttentionImpl::pack() {
  const auto [query, key, value] = projections();
  nn::lay_together({&query->weight, &key->weight, &value->weight});
  if (query->bias.defined()) nn::lay_together({&query->bias, &key->bias, &value->bias});
}

namespace {

bool has_active_adapter(const nn::LinearImpl& linear) { return linear.has_lora() && !linear.is_merged(); }

bool is_frozen(const nn::LinearImpl& linear) {
  return !linear.weight.requires_grad() && !(linear.bias.defined() && linear.bias.requires_grad());
}

/// Whether the base products of modules of one shape, with biases or without, can be one.
template <std::size_t kCount>
bool form_one_product(const std::array<nn::LinearImpl*, kCount>& linears) {
  std::vector<at::Tensor> weights, biases;
  for (const nn::LinearImpl* linear : linears) {
    if (!is_frozen(*linear)) return false;
    weights.push_back(linear->weight);
    if (linear->bias.defined()) biases.push_back(linear->bias);
  }
  return nn::lie_together(weights) && nn::lie_together(biases);
}

/// The base products of such modules, side by side.
template <std::size_t kCount>
at::Tensor one_product(const at::Tensor& input, const std::array<nn::LinearImpl*, kCount>& linears,
                       nn::FrozenCast& cast) {
  const nn::LinearImpl& first = *linears[0];
  std::int64_t version = 0;  // each of them may change alone
  for (const nn::LinearImpl* linear : linears) version += linear->weight._version();
  return ops::linear(input, cast.of(nn::together(first.weight, kCount), version),
                     first.bias.defined() ? nn::together(first.bias, kCount) : at::Tensor());
}

}  // namespace

bool Dinov2AttentionImpl::is_one_product() const {
  for (const nn::LinearImpl* linear : projections()) {
    // DoRA scales what the product gives, row by row.
    if (has_active_adapter(*linear) && linear->lora_options().dora) return false;
  }
  return form_one_product(projections());
}

at::Tensor Dinov2AttentionImpl::projected_together(const at::Tensor& rows) {
  return one_product(rows, projections(), cast_);
}

std::array<at::Tensor, 3> Dinov2AttentionImpl::projected(const at::Tensor& rows) {
  const std::vector<at::Tensor> parts = projected_together(rows).chunk(3, 1);
  std::array<at::Tensor, 3> result = {parts[0], parts[1], parts[2]};
  // Dropout is each adapter's own; without it they read the same, and their A sides are one product.
  std::vector<at::Tensor> a_sides;
  const bool trains = is_training();
  const auto drops = [&](const nn::LinearImpl& linear) {
    return trains && linear.lora_options().dropout > 0;
  };
  for (nn::LinearImpl* linear : projections()) {
    if (has_active_adapter(*linear) && !drops(*linear)) a_sides.push_back(linear->lora_a());
  }
  at::Tensor shared;
  if (!a_sides.empty()) shared = ops::linear(rows, a_sides.size() == 1 ? a_sides[0] : at::cat(a_sides));
  std::int64_t next = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    nn::LinearImpl& linear = *projections()[i];
    if (!has_active_adapter(linear)) continue;
    const nn::LoraAdapterOptions& options = linear.lora_options();
    at::Tensor low_rank;
    if (drops(linear)) {
      low_rank = ops::linear(ops::dropout(rows, options.dropout), linear.lora_a());
    } else {
      low_rank = shared.slice(1, next, next + options.r);
      next += options.r;
    }
    const at::ScalarType type = result[i].scalar_type();
    result[i] =
        at::addmm(result[i], low_rank.to(type), linear.lora_b().to(type).t(), /*beta=*/1, options.scaling);
  }
  return result;
}

at::Tensor Dinov2AttentionImpl::forward(const at::Tensor& hidden_states) {
  const std::int64_t batch = hidden_states.size(0);
  const std::int64_t length = hidden_states.size(1);
  const auto by_head = [&](const at::Tensor& projection) {
    return projection.unflatten(-1, {heads_, -1}).unflatten(0, {batch, length});
  };
  const auto [query, key, value] = projections();
  at::Tensor attended;
  if (!is_one_product()) {
    const auto rows_of = [&](nn::LinearImpl& linear) {
      return by_head(linear.forward(hidden_states).flatten(0, 1));
    };
    // One after the other: in which order a call's arguments are computed, and so what dropout draws, is the
    // compiler's affair.
    const at::Tensor query_rows = rows_of(*query), key_rows = rows_of(*key), value_rows = rows_of(*value);
    attended = ops::attention(query_rows, key_rows, value_rows);
  } else if (has_active_adapter(*query) || has_active_adapter(*key) || has_active_adapter(*value)) {
    const std::array<at::Tensor, 3> parts = projected(hidden_states.flatten(0, 1));
    attended = ops::attention(by_head(parts[0]), by_head(parts[1]), by_head(parts[2]));
  } else {
    attended = ops::self_attention(
        projected_together(hidden_states.flatten(0, 1)).view({batch, length, 3, heads_, -1}));
  }
  return dense_->forward(attended.reshape({batch, length, -1}));
}

Dinov2MlpImpl::Dinov2MlpImpl(const Dinov2Config& config) : gated_(config.use_swiglu_ffn) {
  const std::int64_t width = config.intermediate_size();
  in_ = register_module(gated_ ? "gate_proj" : "fc1", nn::Linear(config.hidden_size, width));
  if (gated_) {
    up_ = register_module("up_proj", nn::Linear(config.hidden_size, width));
  }
  out_ = register_module(gated_ ? "weights_out" : "fc2", nn::Linear(width, config.hidden_size));
  Dinov2MlpImpl::pack();
}

void Dinov2MlpImpl::pack() {
  if (!gated_) return;
  nn::lay_together({&in_->weight, &up_->weight});
  nn::lay_together({&in_->bias, &up_->bias});
}

std::pair<at::Tensor, at::Tensor> Dinov2MlpImpl::gate_and_up(const at::Tensor& hidden_states) {
  const std::array pair = {in_.get(), up_.get()};
  if (has_active_adapter(*in_) || has_active_adapter(*up_) || !form_one_product(pair))
    return {in_->forward(hidden_states), up_->forward(hidden_states)};
  const std::vector<at::Tensor> halves = one_product(hidden_states, pair, cast_).chunk(2, -1);
  return {halves[0], halves[1]};
}

at::Tensor Dinov2MlpImpl::forward(const at::Tensor& hidden_states) {
  if (!gated_) return out_->forward(at::gelu(in_->forward(hidden_states)));
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
