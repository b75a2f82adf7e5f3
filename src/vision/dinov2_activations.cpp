// What training a DINOv2 keeps of an image: VisionEncoder::activations.

#include <ATen/ATen.h>

#include <algorithm>
#include <string>
#include <vector>

#include "nn/linear.h"
#include "ops/activations.h"
#include "ops/attention.h"
#include "vision/dinov2.h"

namespace tessera::vision {

namespace {

constexpr double kWideBytes = 4;  ///< of a float32

bool has_trainable(const torch::nn::Module& module) {
  const std::vector<at::Tensor> parameters = module.parameters();
  return std::any_of(parameters.begin(), parameters.end(),
                     [](const at::Tensor& parameter) { return parameter.requires_grad(); });
}

/// One Linear of a block, as far as it matters for what is kept.
struct Product {
  double in = 0, out = 0;
  bool trains = false;   ///< its base weight
  bool adapted = false;  ///< by an adapter that trains
  bool drops = false;    ///< which has dropout, and with it an input of its own
  bool dora = false;

  bool keeps_input() const { return trains || adapted; }
};

Product product_of(const nn::LinearImpl& linear) {
  Product product{.in = static_cast<double>(linear.in_features()),
                  .out = static_cast<double>(linear.out_features()),
                  .trains = linear.weight.requires_grad()};
  if (linear.has_lora() && !linear.is_merged()) {
    product.adapted = has_trainable(linear) && !product.trains;
    product.drops = product.adapted && linear.lora_options().dropout > 0;
    product.dora = linear.lora_options().dora;
  }
  return product;
}

/// A block's products by what they read.
struct BlockProducts {
  std::vector<Product> attention;  ///< query, key, value
  std::vector<Product> output;     ///< of attention
  std::vector<Product> inner;      ///< fc1, or gate and up
  std::vector<Product> last;       ///< fc2, weights_out
  bool trains = false;             ///< anything of the block
  bool scales_train = false;
};

BlockProducts products_of(const torch::nn::Module& block) {
  BlockProducts products;
  for (const auto& item : block.named_modules()) {
    const auto* linear = dynamic_cast<const nn::LinearImpl*>(item.value().get());
    if (linear == nullptr) continue;
    const std::string& name = item.key();
    const auto is = [&](const char* ending) { return name.ends_with(ending); };
    std::vector<Product>& group = is("query") || is("key") || is("value")         ? products.attention
                                  : is("dense")                                   ? products.output
                                  : is("fc1") || is("gate_proj") || is("up_proj") ? products.inner
                                                                                  : products.last;
    group.push_back(product_of(*linear));
  }
  products.trains = has_trainable(block);
  for (const auto& item : block.named_parameters())
    products.scales_train |= item.key().ends_with("lambda1") && item.value().requires_grad();
  return products;
}

}  // namespace

EncoderActivations Dinov2Model::activations(std::int64_t height, std::int64_t width_in_pixels,
                                            const Compute& compute) const {
  const auto narrow = static_cast<double>(c10::elementSize(compute.dtype));  // of a number in a product
  const bool casts = compute.dtype != at::kFloat;
  const auto tokens = static_cast<double>(first_patch() + grid(height, width_in_pixels).patches());
  const auto width = static_cast<double>(config_.hidden_size);
  const auto inner = static_cast<double>(config_.intermediate_size());
  // One input for all that read it as it is; a cast, and what dropout leaves, are each product's own.
  const auto inputs = [&](const std::vector<Product>& products, bool is_cast) {
    double kept = 0;
    bool shared = false;
    for (const Product& product : products) {
      if (!product.keeps_input()) continue;
      const double copies =
          product.drops ? 1 + ops::dropout_keeps(compute.device, is_cast ? at::kFloat : compute.dtype) : 1;
      if (product.drops || (casts && is_cast)) kept += copies * narrow * product.in;
      if (!product.drops && !(casts && is_cast)) shared = true;
      if (product.dora) kept += 2 * narrow * product.out;
    }
    return kept + (shared ? narrow * products.front().in : 0);
  };
  const ops::AttentionKept attention =
      ops::attention_keeps(compute.device, compute.dtype, config_.hidden_size / config_.num_attention_heads);
  const auto projections = [&](const std::vector<Product>& products) {
    if (attention.output) return 4 * static_cast<double>(c10::elementSize(attention.dtype)) * width;
    double adapted = 0;
    bool one_product = true;
    for (const Product& product : products) {
      adapted += product.adapted ? 1 : 0;
      one_product &= !product.trains && !product.dora;
    }
    // Where the base products are one, each adapter's result is a tensor beside it, and one that has none
    // keeps the whole.
    if (!one_product || adapted == 0 || adapted == 3) return 3 * narrow * width;
    return (3 + adapted) * narrow * width;
  };
  const double nonlinear = config_.use_swiglu_ffn ? ops::swiglu_keeps(compute.device, compute.dtype) : 1;
  EncoderActivations result;
  double first_kept = 0;
  for (const Dinov2Layer& layer : layers_) {
    const BlockProducts products = products_of(*layer);
    // Below the first that trains nothing needs a gradient.
    if (!products.trains && first_kept == 0) continue;
    const double block = 2 * kWideBytes * width + inputs(products.attention, /*is_cast=*/true) +
                         projections(products.attention) + inputs(products.output, /*is_cast=*/false) +
                         inputs(products.inner, /*is_cast=*/true) + nonlinear * narrow * inner +
                         inputs(products.last, /*is_cast=*/false) +
                         (products.scales_train ? 2 * narrow * width : 0);
    first_kept = block;
    result.kept += tokens * (gradient_checkpointing_ ? kWideBytes * width : block);
    if (gradient_checkpointing_) result.block = std::max(result.block, tokens * block);
  }
  if (result.kept > 0) result.kept += tokens * kWideBytes * width;  // of the last norm
  result.passing =
      tokens * (3 * kWideBytes * width + (casts ? narrow : 0) * width + narrow * (2 * inner + width));
  return result;
}

}  // namespace tessera::vision
