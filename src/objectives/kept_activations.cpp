#include "objectives/kept_activations.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "config/config.h"
#include "fusion/fusion_tower.h"
#include "language/language_model.h"
#include "model/stage1_model.h"
#include "ops/activations.h"
#include "ops/attention.h"
#include "ops/feed_forward.h"
#include "ops/rotation.h"
#include "vision/encoder.h"

namespace tessera::objectives {

namespace {

bool feed_forward_is_one_kernel(const Compute& compute, double width, double inner) {
  return ops::feed_forward_is_one_kernel(compute.device, compute.dtype, static_cast<std::int64_t>(width),
                                         static_cast<std::int64_t>(inner));
}

double bytes_of(c10::ScalarType dtype) { return static_cast<double>(c10::elementSize(dtype)); }

}  // namespace

KeptActivations::KeptActivations(const Config& config, const model::Stage1Model& model,
                                 const Compute& compute)
    : config_(config),
      casts_(compute.dtype != at::kFloat),
      narrow_(bytes_of(compute.dtype)),
      operand_(
          bytes_of(ops::attention_keeps(compute.device, compute.dtype,
                                        config.compressor.output_size / config.fusion.image_attention_heads)
                       .dtype)),
      rotated_(bytes_of(ops::rotary_dtype(compute.device, compute.dtype))),
      dropout_keeps_(ops::dropout_keeps(compute.device, compute.dtype)),
      swiglu_keeps_(ops::swiglu_keeps(compute.device, compute.dtype)) {
  const language::LanguageModelConfig& language = model.language()->config();
  layers_ = static_cast<double>(language.num_hidden_layers);
  levels_ = static_cast<double>(model.fusion()->levels());
  intermediate_ = static_cast<double>(language.intermediate_size);
  vocabulary_ = static_cast<double>(language.vocab_size);
  const std::int64_t side = config.data.image_size;
  image_tokens_ = static_cast<double>(1 + model.vision().grid(side, side).patches());
  encoder_width_ = static_cast<double>(model.vision().hidden_size());
  compressor_width_ = static_cast<double>(config.compressor.hidden_size);
  token_size_ = static_cast<double>(config.fusion.token_size);
  // The compressor's norm gives what its product gave it; the embedding of tokens is no product.
  image_ = {image_tokens_, static_cast<double>(config.compressor.output_size), narrow_};
  text_ = {static_cast<double>(config.language.max_tokens), static_cast<double>(language.hidden_size), kWide};
  image_inner_ = static_cast<double>(config.fusion.image_mlp_ratio) * image_.width;
  is_kernel_image_ = feed_forward_is_one_kernel(compute, image_.width, image_inner_);
  is_kernel_text_ = feed_forward_is_one_kernel(compute, text_.width, intermediate_);
}

double KeptActivations::compressor() const {
  const double of_dropout = config_.compressor.dropout == 0 ? 0 : 1 + dropout_keeps_;
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
  return text_.tokens * text_.width * (kWide + 3 * narrow_ + 3 * rotated_ + narrow_);
}

double KeptActivations::text_feed_forward_half() const {
  const double inner = intermediate_;
  if (is_kernel_text_) return text_.tokens * kWide * (text_.width + 2 * inner);
  // The norm's input, and what it gives: under autocast a cast for each of the two products that read it.
  const double width = (kWide + (casts_ ? 2 : 1) * narrow_) * text_.width;
  return text_.tokens * (width + (swiglu_keeps_ + 1) * narrow_ * inner);
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
