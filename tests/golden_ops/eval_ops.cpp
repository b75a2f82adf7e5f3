#include <ATen/ATen.h>

#include "core/error.h"
#include "eval/caption_scores.h"
#include "tests/golden_ops/golden_case.h"

namespace tessera::golden {

namespace {

template <typename Value>
Value param(const GoldenCase& golden, const char* name, const char* expected) {
  try {
    return golden.params.at(name).get<Value>();
  } catch (const nlohmann::json::exception&) {
    fail("{}: params.{}: expected {}", golden.name, name, expected);
  }
}

GoldenResult caption_scores(const GoldenCase& golden) {
  const eval::CaptionScores scores = eval::caption_scores(
      param<std::vector<std::string>>(golden, "candidates", "a list of strings"),
      param<std::vector<std::vector<std::string>>>(golden, "references", "a list of lists of strings"));
  GoldenResult result;
  result.outputs["bleu"] =
      at::tensor(std::vector<double>(scores.bleu.begin(), scores.bleu.end()), at::kDouble);
  result.outputs["rouge_l"] = at::scalar_tensor(scores.rouge_l, at::kDouble);
  result.outputs["cider_d"] = at::scalar_tensor(scores.cider_d, at::kDouble);
  return result;
}

}  // namespace

void add_eval_ops(GoldenOps& ops) { ops["caption_scores"] = caption_scores; }

}  // namespace tessera::golden
