#include <ATen/ATen.h>

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "language/language_model.h"
#include "language/next_token_loss.h"
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

/// params: config (Hugging Face's LlamaConfig object), attention. in.input_ids, in.attention_mask [B,T],
/// optionally in.labels → out.logits, out.loss. Where a case gives zeros at padding, so does the op: what
/// stands there has no meaning and may differ between implementations.
GoldenResult causal_lm(const GoldenCase& golden) {
  if (!golden.params.contains("config")) fail("{}: params.config is missing", golden.name);
  LanguageModel model(LanguageModelConfig::from_hugging_face(golden.params.at("config"), golden.name),
                      /*seed=*/0);
  load_language_model_weights(model, golden.weights, golden.name);
  const at::Tensor mask = input(golden, "attention_mask").to(at::kBool);
  const at::Tensor hidden = model->hidden_states(input(golden, "input_ids"), mask, attention_mode(golden));
  const at::Tensor logits = model->logits(hidden);

  GoldenResult result;
  result.outputs["logits"] = logits * compared_rows(golden, mask).unsqueeze(-1);
  if (const auto labels = golden.inputs.find("labels"); labels != golden.inputs.end()) {
    result.outputs["loss"] = next_token_loss(logits, labels->second).value;
  }
  for (const auto& parameter : model->named_parameters())
    result.leaves["w." + parameter.key()] = parameter.value();
  return result;
}

}  // namespace

void add_language_ops(GoldenOps& ops) { ops["causal_lm"] = causal_lm; }

}  // namespace tessera::golden
