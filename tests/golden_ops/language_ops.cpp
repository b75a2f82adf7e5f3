#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "language/language_model.h"
#include "language/next_token_loss.h"
#include "lora/lora.h"
#include "lora/peft_files.h"
#include "tests/golden_ops/golden_case.h"

namespace tessera::golden {
namespace {

using namespace tessera::language;

AttentionMode attention_mode(const GoldenCase& golden) {
  const auto attention = golden.params.value("attention", nlohmann::json());
  if (attention == "causal") return AttentionMode::kCausal;
  if (attention == "bidirectional") return AttentionMode::kBidirectional;
  fail("{}: params.attention is {}, accepted are \"causal\" and \"bidirectional\"", golden.name,
       attention.dump());
}

/// The rows [B,T] whose logits count: real tokens, and padding where the case expects something of it.
at::Tensor compared_rows(const GoldenCase& golden, const at::Tensor& mask) {
  const auto expected = golden.outputs.find("logits");
  if (expected == golden.outputs.end() || expected->second.dim() != 3) return mask;
  return mask.logical_or(expected->second.ne(0).any(-1));
}

LanguageModel model_of(const GoldenCase& golden) {
  if (!golden.params.contains("config")) fail("{}: params.config is missing", golden.name);
  LanguageModel model(LanguageModelConfig::from_hugging_face(golden.params.at("config"), golden.name),
                      /*seed=*/0);
  load_language_model_weights(model, golden.weights, golden.name);
  return model;
}

/// in.input_ids, in.attention_mask [B,T], optionally in.labels → out.logits, out.loss. Where a case gives
/// zeros at padding, so does the op: what stands there has no meaning and may differ between implementations.
GoldenResult run(const GoldenCase& golden, LanguageModel& model) {
  const at::Tensor mask = input(golden, "attention_mask").to(at::kBool);
  const at::Tensor hidden = model->hidden_states(input(golden, "input_ids"), mask, attention_mode(golden));
  const at::Tensor logits = model->logits(hidden);

  GoldenResult result;
  result.outputs["logits"] = logits * compared_rows(golden, mask).unsqueeze(-1);
  if (const auto labels = golden.inputs.find("labels"); labels != golden.inputs.end()) {
    result.outputs["loss"] = next_token_loss(logits, labels->second).value;
  }
  return result;
}

/// params: config (Hugging Face's LlamaConfig object), attention.
GoldenResult causal_lm(const GoldenCase& golden) {
  LanguageModel model = model_of(golden);
  GoldenResult result = run(golden, model);
  for (const auto& parameter : model->named_parameters())
    result.leaves["w." + parameter.key()] = parameter.value();
  return result;
}

/// The same with an adapter: params.adapter_config, adapter.* under PEFT's keys; params.merged: in the
/// weights.
GoldenResult causal_lm_lora(const GoldenCase& golden) {
  if (!golden.params.contains("adapter_config")) fail("{}: params.adapter_config is missing", golden.name);
  LanguageModel model = model_of(golden);
  const lora::LoraOptions options =
      lora::load_adapter(golden.params.at("adapter_config"), golden.adapter, *model, golden.name);
  TensorMap parameters = lora::adapter_tensors(*model, options, lora::ModuleNaming::kCurrent);
  if (golden.params.value("merged", false)) lora::merge_lora(*model);
  GoldenResult result = run(golden, model);
  for (const auto& [key, parameter] : parameters) result.leaves["adapter." + key] = parameter;
  return result;
}

}  // namespace

void add_language_ops(GoldenOps& ops) {
  ops["causal_lm"] = causal_lm;
  ops["causal_lm_lora"] = causal_lm_lora;
}

}  // namespace tessera::golden
