#include <ATen/ATen.h>

#include "core/error.h"
#include "fusion/fusion_tower.h"
#include "fusion/gated_cross_attention.h"
#include "language/language_model.h"
#include "tests/golden_ops/golden_case.h"

namespace tessera::golden {

namespace {

at::Tensor optional_input(const GoldenCase& golden, const std::string& name) {
  const auto found = golden.inputs.find(name);
  return found == golden.inputs.end() ? at::Tensor() : found->second;
}

std::int64_t integer(const GoldenCase& golden, const char* name) {
  const auto found = golden.params.find(name);
  if (found == golden.params.end() || !found->is_number_integer()) {
    fail("{}: params.{}: an integer expected", golden.name, name);
  }
  return found->get<std::int64_t>();
}

/// Copies the case's weights into the module and offers their gradients.
/// @param prefix of the module's names in the case
void load(const GoldenCase& golden, torch::nn::Module& module, const std::string& prefix,
          GoldenResult& result) {
  for (const auto& item : module.named_parameters()) {
    if (item.key() == "model.embed_tokens.weight") continue;  // cases begin after the embedding
    const std::string name = prefix + item.key();
    const auto found = golden.weights.find(name);
    if (found == golden.weights.end()) fail("{}: w.{} is missing", golden.name, name);
    if (found->second.sizes() != item.value().sizes()) fail("{}: w.{} has another shape", golden.name, name);
    const at::NoGradGuard no_grad;
    item.value().copy_(found->second);
    result.leaves["w." + name] = item.value();
  }
}

GoldenResult gated_cross_attention(const GoldenCase& golden) {
  GoldenResult result;
  const at::Tensor hidden_states = leaf(golden, "hidden_states", result);
  const at::Tensor context = leaf(golden, "context", result);
  fusion::GatedCrossAttention module(fusion::GatedCrossAttentionOptions{.query_size = hidden_states.size(-1),
                                                                        .context_size = context.size(-1),
                                                                        .heads = integer(golden, "heads")});
  load(golden, *module, "", result);
  const at::Tensor mask = optional_input(golden, "context_mask");
  result.outputs["hidden_states"] =
      module->forward(hidden_states, module->keys(context, mask.defined() ? mask.to(at::kBool) : mask));
  return result;
}

fusion::FusionTower tower_of(const GoldenCase& golden, const at::Tensor& image, const at::Tensor& text) {
  const auto projection = golden.weights.find("memory_projection.weight");
  if (projection == golden.weights.end()) fail("{}: w.memory_projection.weight is missing", golden.name);
  return fusion::FusionTower(
      fusion::FusionConfig{.levels = integer(golden, "levels"),
                           .image_attention_heads = integer(golden, "image_attention_heads"),
                           .image_mlp_ratio = integer(golden, "image_mlp_ratio"),
                           .cross_attention_heads = integer(golden, "cross_attention_heads")},
      fusion::FusionTowerSizes{.image_size = image.size(-1),
                               .text_size = text.size(-1),
                               .code_size = projection->second.size(1),
                               .read_tokens = projection->second.size(0) / image.size(-1)});
}

language::LanguageModel language_of(const GoldenCase& golden, GoldenResult& result) {
  if (!golden.params.contains("config")) fail("{}: params.config is missing", golden.name);
  language::LanguageModel model(
      language::LanguageModelConfig::from_hugging_face(golden.params.at("config"), golden.name), /*seed=*/0);
  load(golden, *model, "language.", result);
  return model;
}

/// docs/golden-cases.md has the tensors. Text is 0 at padding, where it has no meaning.
GoldenResult fusion_level(const GoldenCase& golden) {
  GoldenResult result;
  const at::Tensor image = leaf(golden, "image", result), text = leaf(golden, "text", result);
  const at::Tensor mask = input(golden, "attention_mask").to(at::kBool);
  fusion::FusionTower tower = tower_of(golden, image, text);
  language::LanguageModel language = language_of(golden, result);
  load(golden, *tower, "", result);

  const auto mode = golden.params.value("mode", nlohmann::json());
  const auto context = [&](language::AttentionMode attention) {
    return language->context(attention == language::AttentionMode::kCausal ? at::Tensor() : mask,
                             text.size(1), attention);
  };
  const auto attended = [&](language::AttentionMode attention) {
    return tower->attended_text(language, text, context(attention));
  };
  at::Tensor text_output;
  if (mode == "fused") {
    const fusion::FusedStates fused =
        tower->fused(language, image, text, mask, context(language::AttentionMode::kBidirectional));
    result.outputs["image"] = fused.image;
    text_output = fused.text;
  } else if (mode == "unfused") {
    result.outputs["image"] = tower->image_states(image).back();
    text_output = tower->upper_text(language, attended(language::AttentionMode::kBidirectional),
                                    context(language::AttentionMode::kBidirectional));
  } else if (mode == "caption") {
    fusion::CaptionCondition condition{tower->image_states(image), {}, {}};
    if (golden.inputs.count("memory") != 0) condition.memory = leaf(golden, "memory", result);
    if (const at::Tensor has_memory = optional_input(golden, "has_memory"); has_memory.defined()) {
      condition.has_memory = has_memory.to(at::kBool);
    }
    text_output =
        tower->conditioned_text(language, attended(language::AttentionMode::kCausal),
                                context(language::AttentionMode::kCausal), tower->caption_keys(condition));
  } else {
    fail("{}: params.mode is {}, accepted are \"fused\", \"unfused\" and \"caption\"", golden.name,
         mode.dump());
  }
  result.outputs["text"] = text_output * mask.unsqueeze(-1);
  return result;
}

}  // namespace

void add_fusion_ops(GoldenOps& ops) {
  ops["gated_cross_attention"] = gated_cross_attention;
  ops["fusion_level"] = fusion_level;
}

}  // namespace tessera::golden
