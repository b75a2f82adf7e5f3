#include "fusion/fusion_tower.h"

#include <ATen/ATen.h>

#include "nn/freeze.h"

namespace tessera::fusion {

namespace {

language::KeyValueCache* cache_of(std::vector<language::KeyValueCache>* caches, std::int64_t layer) {
  return caches == nullptr ? nullptr : &caches->at(static_cast<std::size_t>(layer));
}

}  // namespace

FusionTowerImpl::FusionTowerImpl(const FusionConfig& config, const FusionTowerSizes& sizes)
    : config_(config), sizes_(sizes) {
  TORCH_CHECK(config.levels >= 1, "fusion tower: at least one level expected, got ", config.levels);
  image_blocks_ = register_module("image_blocks", torch::nn::ModuleList());
  text_cross_attention_ = register_module("text_cross_attention", torch::nn::ModuleList());
  for (std::int64_t level = 0; level < config.levels; ++level) {
    image_blocks_->push_back(
        ImageBlock(ImageBlockOptions{sizes.image_size, sizes.text_size, config.image_attention_heads,
                                     config.image_mlp_ratio, config.cross_attention_heads}));
    text_cross_attention_->push_back(GatedCrossAttention(
        GatedCrossAttentionOptions{sizes.text_size, sizes.image_size, config.cross_attention_heads}));
  }
  TORCH_CHECK(sizes.read_tokens >= 1, "fusion tower: at least one token of a read-out expected, got ",
              sizes.read_tokens);
  memory_projection_ = register_module(
      "memory_projection", nn::drawn_linear(sizes.code_size, sizes.read_tokens * sizes.image_size));
}

std::int64_t FusionTowerImpl::first_layer(const language::LanguageModel& language) const {
  TORCH_CHECK(language->num_layers() >= config_.levels, "fusion tower: ", config_.levels,
              " levels need as many layers of the language model, it has ", language->num_layers());
  return language->num_layers() - config_.levels;
}

const lora::ModuleNames& fusion_module_names() {
  static const lora::ModuleNames names = {
      .architecture = "Tessera's fusion",
      .backbone = {"image_blocks.", "text_cross_attention.", "memory_projection."}};
  return names;
}

const lora::ModuleNames& FusionTowerImpl::module_names() const { return fusion_module_names(); }

void FusionTowerImpl::freeze_unused(const FusionUse& use) {
  for (std::int64_t level = 0; level < levels(); ++level) {
    if (!use.matches) nn::freeze(*image_block(level).cross_attention);
    if (!use.matches && !use.decodes) nn::freeze(text_cross_attention(level));
  }
  // Captions read what enters a level: the output of the last image block is for the others alone.
  if (!use.encodes && !use.matches) nn::freeze(image_block(levels() - 1));
  if (!use.remembers) nn::freeze(*memory_projection_);
}

std::vector<at::Tensor> FusionTowerImpl::image_states(const at::Tensor& tokens, const at::Tensor& attended) {
  std::vector<at::Tensor> states = {tokens};
  for (std::int64_t level = 0; level < levels(); ++level) {
    ImageBlockImpl& block = image_block(level);
    const bool known = level == 0 && attended.defined();
    states.push_back(block.feed_forward_half(known ? attended : block.attention_half(states.back())));
  }
  return states;
}

at::Tensor FusionTowerImpl::lower_text(language::LanguageModel& language, const at::Tensor& input_ids,
                                       const language::DecoderContext& context,
                                       std::vector<language::KeyValueCache>* caches) {
  at::Tensor hidden = language->embed(input_ids);
  for (std::int64_t i = 0; i < first_layer(language); ++i) {
    language::DecoderLayerImpl& layer = language->layer(i);
    hidden = layer.feed_forward_half(layer.attention_half(hidden, context, cache_of(caches, i)));
  }
  return hidden;
}

at::Tensor FusionTowerImpl::attended_text(language::LanguageModel& language, const at::Tensor& lower_text,
                                          const language::DecoderContext& context,
                                          std::vector<language::KeyValueCache>* caches) {
  const std::int64_t first = first_layer(language);
  return language->layer(first).attention_half(lower_text, context, cache_of(caches, first));
}

at::Tensor FusionTowerImpl::upper_text(language::LanguageModel& language, const at::Tensor& attended_text,
                                       const language::DecoderContext& context) {
  const std::int64_t first = first_layer(language);
  at::Tensor hidden = language->layer(first).feed_forward_half(attended_text);
  for (std::int64_t i = first + 1; i < language->num_layers(); ++i) {
    hidden = language->layer(i).forward(hidden, context);
  }
  return language->final_norm(hidden);
}

FusedStates FusionTowerImpl::fused(language::LanguageModel& language, const at::Tensor& image_tokens,
                                   const at::Tensor& lower_text, const at::Tensor& attention_mask,
                                   const language::DecoderContext& context, const PairRows& pairs,
                                   const FirstAttention& attended) {
  TORCH_CHECK(pairs.image.defined() == pairs.text.defined() &&
                  (pairs.image.defined() ? pairs.image.sizes() == pairs.text.sizes()
                                         : image_tokens.size(0) == lower_text.size(0)),
              "fused pass: as many images as texts expected, got ",
              pairs.image.defined() ? pairs.image.numel() : image_tokens.size(0), " and ",
              pairs.text.defined() ? pairs.text.numel() : lower_text.size(0));
  at::Tensor image = image_tokens, text = lower_text, mask = attention_mask;
  language::DecoderContext text_context = context;
  for (std::int64_t level = 0; level < levels(); ++level) {
    language::DecoderLayerImpl& layer = language->layer(first_layer(language) + level);
    ImageBlockImpl& block = image_block(level);
    GatedCrossAttentionImpl& reads_image = text_cross_attention(level);
    GatedCrossAttentionImpl& reads_text = *block.cross_attention;
    // Both are projected before either side moves on.
    ContextKeys image_keys = reads_image.keys(image);
    ContextKeys text_keys = reads_text.keys(text, mask);
    const bool first = level == 0;
    image = first && attended.image.defined() ? attended.image : block.attention_half(image);
    text = first && attended.text.defined() ? attended.text : layer.attention_half(text, text_context);
    at::Tensor image_queries = reads_text.queries(image);
    at::Tensor text_queries = reads_image.queries(text);
    if (first && pairs.image.defined()) {
      image_keys = image_keys.select(pairs.image);
      text_keys = text_keys.select(pairs.text);
      image = image.index_select(0, pairs.image);
      text = text.index_select(0, pairs.text);
      image_queries = image_queries.index_select(0, pairs.image);
      text_queries = text_queries.index_select(0, pairs.text);
      mask = mask.index_select(0, pairs.text);
      text_context = text_context.select(pairs.text);
    }
    image = block.feed_forward_half(reads_text.read(image, image_queries, text_keys));
    text = layer.feed_forward_half(reads_image.read(text, text_queries, image_keys));
  }
  return {image, language->final_norm(text)};
}

std::vector<ContextKeys> FusionTowerImpl::caption_keys(const CaptionCondition& condition) {
  const std::int64_t batch = condition.batch_size();
  const bool has_image = !condition.image_states.empty();
  TORCH_CHECK(!has_image || static_cast<std::int64_t>(condition.image_states.size()) == levels() + 1,
              "caption condition: ", levels() + 1, " image states expected, got ",
              condition.image_states.size());
  TORCH_CHECK(has_image || !condition.has_memory.defined(),
              "caption condition: has_memory is for rows that have an image beside the memory");
  at::Tensor memory_tokens;
  if (condition.memory.defined()) {
    memory_tokens = memory_projection_->forward(condition.memory).unflatten(1, {sizes_.read_tokens, -1});
  }

  std::vector<ContextKeys> keys;
  for (std::int64_t level = 0; level < levels(); ++level) {
    at::Tensor context = memory_tokens;
    at::Tensor mask;
    if (has_image) {
      const at::Tensor& image = condition.image_states[static_cast<std::size_t>(level)];
      context = memory_tokens.defined() ? at::cat({image, memory_tokens.to(image.scalar_type())}, 1) : image;
      if (memory_tokens.defined() && condition.has_memory.defined()) {
        mask = at::cat({at::ones({batch, image.size(1)}, condition.has_memory.options()),
                        condition.has_memory.view({batch, 1}).expand({batch, sizes_.read_tokens})},
                       1);
      }
    }
    keys.push_back(text_cross_attention(level).keys(context, mask));
  }
  return keys;
}

at::Tensor FusionTowerImpl::conditioned_text(language::LanguageModel& language,
                                             const at::Tensor& attended_text,
                                             const language::DecoderContext& context,
                                             const std::vector<ContextKeys>& keys,
                                             std::vector<language::KeyValueCache>* caches) {
  at::Tensor hidden = attended_text;
  for (std::int64_t level = 0; level < levels(); ++level) {
    const std::int64_t i = first_layer(language) + level;
    language::DecoderLayerImpl& layer = language->layer(i);
    if (level > 0) hidden = layer.attention_half(hidden, context, cache_of(caches, i));
    hidden = text_cross_attention(level).forward(hidden, keys[static_cast<std::size_t>(level)]);
    hidden = layer.feed_forward_half(hidden);
  }
  return language->final_norm(hidden);
}

}  // namespace tessera::fusion
