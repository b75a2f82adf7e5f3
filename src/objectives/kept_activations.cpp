#include "objectives/kept_activations.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <string>

#include "core/config.h"
#include "fusion/fusion_tower.h"
#include "language/language_model.h"
#include "model/stage1_model.h"
#include "ops/attention_kernel.h"
#include "ops/feed_forward.h"
#include "vision/dinov2.h"
#include "vision/linear.h"

namespace tessera::objectives {

namespace {

/// Whether attention is a kernel of ours, which computes in the dtype of its operands (ops/attention.h).
bool attention_is_kernel(const Compute& compute, std::int64_t head_size) {
  if (!compute.device.is_cpu()) return false;
  const at::Tensor operand = at::empty({1, 1, 1, head_size}, compute.dtype);
  return ops::attention_kernel_serves(operand, operand);
}

bool feed_forward_is_one_kernel(const Compute& compute, double width, double inner) {
  return compute.device.is_cpu() && compute.dtype == at::kFloat &&
         ops::feed_forward_kernel_serves(static_cast<std::int64_t>(width), static_cast<std::int64_t>(inner));
}

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

Product product_of(const vision::LinearImpl& linear) {
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
    const auto* linear = dynamic_cast<const vision::LinearImpl*>(item.value().get());
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

KeptActivations::KeptActivations(const Config& config, const model::Stage1Model& model,
                                 const Compute& compute)
    : config_(config),
      model_(model),
      compute_(compute),
      narrow_(compute.dtype == at::kFloat ? kWide : 2),
      on_cpu_(compute.device.is_cpu()),
      casts_(compute.dtype != at::kFloat) {
  const language::LanguageModelConfig& language = model.language()->config();
  layers_ = static_cast<double>(language.num_hidden_layers);
  levels_ = static_cast<double>(model.fusion()->levels());
  intermediate_ = static_cast<double>(language.intermediate_size);
  vocabulary_ = static_cast<double>(language.vocab_size);
  const auto side = static_cast<double>(config.data.image_size / model.vision().patch_size());
  image_tokens_ = 1 + side * side;
  encoder_width_ = static_cast<double>(model.vision().hidden_size());
  compressor_width_ = static_cast<double>(config.compressor.hidden_size);
  token_size_ = static_cast<double>(config.fusion.token_size);
  // The compressor's norm gives what its product gave it; the embedding of tokens is no product.
  image_ = {image_tokens_, static_cast<double>(config.compressor.output_size), narrow_};
  text_ = {static_cast<double>(config.language.max_tokens), static_cast<double>(language.hidden_size), kWide};
  image_inner_ = static_cast<double>(config.fusion.image_mlp_ratio) * image_.width;
  is_kernel_image_ = feed_forward_is_one_kernel(compute, image_.width, image_inner_);
  is_kernel_text_ = feed_forward_is_one_kernel(compute, text_.width, intermediate_);
  attends_narrow_ = !on_cpu_ || attention_is_kernel(compute, config.compressor.output_size /
                                                                 config.fusion.image_attention_heads);
}

EncoderActivations KeptActivations::encoder() const {
  const auto* dinov2 = dynamic_cast<const vision::Dinov2Model*>(&model_.vision());
  TORCH_CHECK(dinov2 != nullptr, "memory estimate: the backbone is no Dinov2Model");
  const vision::Dinov2Config& shape = dinov2->config();
  const double tokens = image_tokens_ + static_cast<double>(shape.num_register_tokens);
  const double width = encoder_width_, inner = static_cast<double>(shape.intermediate_size());
  // One input for all that read it as it is; a cast, and what dropout leaves, are each product's own.
  const auto inputs = [&](const std::vector<Product>& products, bool is_cast) {
    double kept = 0;
    bool shared = false;
    for (const Product& product : products) {
      if (!product.keeps_input()) continue;
      // LibTorch's dropout, of what is not float32, keeps what it multiplied by.
      const double copies = product.drops && casts_ && !is_cast ? 2 : 1;
      if (product.drops || (casts_ && is_cast)) kept += copies * narrow_ * product.in;
      if (!product.drops && !(casts_ && is_cast)) shared = true;
      if (product.dora) kept += 2 * narrow_ * product.out;
    }
    return kept + (shared ? narrow_ * products.front().in : 0);
  };
  const bool is_kernel = attention_is_kernel(compute_, shape.hidden_size / shape.num_attention_heads);
  const auto projections = [&](const std::vector<Product>& products) {
    // LibTorch's attention computes in float32 on the CPU, and keeps its result too.
    if (!is_kernel && on_cpu_) return 4 * kWide * width;
    double adapted = 0;
    bool one_product = true;
    for (const Product& product : products) {
      adapted += product.adapted ? 1 : 0;
      one_product &= !product.trains && !product.dora;
    }
    // Where the base products are one, each adapter's result is a tensor beside it, and one that has none
    // keeps the whole.
    if (!one_product || adapted == 0 || adapted == 3) return 3 * narrow_ * width;
    return (3 + adapted) * narrow_ * width;
  };
  const double activations = !shape.use_swiglu_ffn ? 1 : casts_ || !on_cpu_ ? 3 : 2;
  EncoderActivations result;
  double first_kept = 0;
  for (const auto& item : model_.vision().named_modules()) {
    if (dynamic_cast<const vision::Dinov2LayerImpl*>(item.value().get()) == nullptr) continue;
    const BlockProducts products = products_of(*item.value());
    // Below the first that trains nothing needs a gradient.
    if (!products.trains && first_kept == 0) continue;
    const double block = 2 * kWide * width + inputs(products.attention, /*is_cast=*/true) +
                         projections(products.attention) + inputs(products.output, /*is_cast=*/false) +
                         inputs(products.inner, /*is_cast=*/true) + activations * narrow_ * inner +
                         inputs(products.last, /*is_cast=*/false) +
                         (products.scales_train ? 2 * narrow_ * width : 0);
    first_kept = block;
    result.kept += tokens * (config_.vision.gradient_checkpointing ? kWide * width : block);
    if (config_.vision.gradient_checkpointing) result.block = std::max(result.block, tokens * block);
  }
  if (result.kept > 0) result.kept += tokens * kWide * width;  // of the last norm
  result.passing =
      tokens * (3 * kWide * width + (casts_ ? narrow_ : 0) * width + narrow_ * (2 * inner + width));
  return result;
}

double KeptActivations::compressor() const {
  const double of_dropout = config_.compressor.dropout == 0 ? 0 : casts_ || !on_cpu_ ? 2 : 1;
  return image_tokens_ * narrow_ * (encoder_width_ + (1 + of_dropout) * compressor_width_ + image_.width);
}

double KeptActivations::image_attention_half() const {
  return image_.tokens * (3 * narrow_ * image_.width + attention_operand(3 * image_.width));
}

double KeptActivations::image_feed_forward_half() const {
  const double inner = image_inner_;
  if (is_kernel_image_) return image_.tokens * kWide * (image_.width + inner);
  return image_.tokens * narrow_ * (2 * image_.width + 2 * inner);
}

double KeptActivations::text_attention_half() const {
  if (!casts_) return text_.tokens * kWide * 6 * text_.width;
  // On the CPU the language model's own attention is computed in float32 (language/decoder_layer.cpp).
  const double projections = 3 * (on_cpu_ ? kWide : narrow_);
  return text_.tokens * text_.width * (kWide + 3 * narrow_ + projections + narrow_);
}

double KeptActivations::text_feed_forward_half() const {
  const double inner = intermediate_;
  if (is_kernel_text_) return text_.tokens * kWide * (text_.width + 2 * inner);
  if (casts_) return text_.tokens * ((kWide + 2 * narrow_) * text_.width + 4 * narrow_ * inner);
  return text_.tokens * kWide * (2 * text_.width + (on_cpu_ ? 3 : 4) * inner);
}

double KeptActivations::queries(const Side& side) const {
  return side.tokens * side.width * (side.stream + narrow_);
}

double KeptActivations::read(const Side& side) const {
  return side.tokens * (attention_operand(side.width) + 2 * narrow_ * side.width);
}

double KeptActivations::keys(const Side& reader, const Side& of) const {
  return of.tokens * attention_operand(2 * reader.width);
}

double KeptActivations::normed(const Side& side) const { return side.tokens * narrow_ * side.width; }

double KeptActivations::image_blocks() const {
  // And what leaves the last of them.
  return levels_ * (image_attention_half() + image_feed_forward_half()) + normed(image_);
}

double KeptActivations::text() const {
  return layers_ * text_layer() + 2 * kWide * text_.tokens * text_.width;
}
double KeptActivations::lower_text() const { return (layers_ - levels_) * text_layer(); }
double KeptActivations::first_text_attention() const { return text_attention_half(); }

double KeptActivations::maxsim() const {
  // Token embeddings before and after they get length 1.
  return 2 * kWide * (image_tokens_ + text_.tokens) * token_size_;
}

double KeptActivations::fused() const {
  const double level = image_attention_half() + image_feed_forward_half() + text_layer() + queries(image_) +
                       queries(text_) + read(image_) + read(text_) + normed(image_) + normed(text_) +
                       keys(image_, text_) + keys(text_, image_);
  return levels_ * level - shared_by_pairs(/*with_self_attention=*/true) +
         kWide * text_.tokens * text_.width;  // of the last norm
}

double KeptActivations::shared_by_pairs(bool with_self_attention) const {
  const double beside = queries(image_) + queries(text_) + normed(image_) + normed(text_);
  return beside + (with_self_attention ? image_attention_half() + text_attention_half() : 0);
}

double KeptActivations::decoder(double context_tokens, bool joined) const {
  const Side context{context_tokens, image_.width, image_.stream};
  const double level =
      text_layer() + queries(text_) + read(text_) + keys(text_, context) + (joined ? 2 : 1) * normed(context);
  return levels_ * level - text_attention_half() +
         text_.tokens * ((kWide + narrow_) * text_.width + kWide * vocabulary_);
}

double KeptActivations::logits_backward() const { return 2 * kWide * text_.tokens * vocabulary_; }

double KeptActivations::fused_backward() const {
  const double image = is_kernel_image_ ? 0 : 2 * image_inner_;
  const double text = is_kernel_text_ ? 0 : 3 * intermediate_;
  return std::max(image_.tokens * (2 * image_.stream * image_.width + narrow_ * image),
                  text_.tokens * (2 * text_.stream * text_.width + narrow_ * text));
}

}  // namespace tessera::objectives
