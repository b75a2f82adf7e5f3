#include <ATen/ATen.h>

#include <optional>

#include "core/error.h"
#include "losses/hard_negatives.h"
#include "losses/itc.h"
#include "losses/maxsim.h"
#include "losses/maxsim_loss.h"
#include "losses/siglip.h"
#include "tests/golden_ops/golden_case.h"

namespace tessera::golden {

namespace {

losses::SameId queued_same_id(const GoldenCase& golden) {
  const std::string name = golden.params.value("queued_same_id", "positive");
  if (name == "positive") {
    return losses::SameId::kPositive;
  }
  if (name == "ignore") {
    return losses::SameId::kIgnore;
  }
  fail("{}: params.queued_same_id: expected positive or ignore, found \"{}\"", golden.name, name);
}

/// Every queued entry of a case is usable; a case without a queue may leave its tensors out.
std::optional<losses::QueueView> queue_of(const GoldenCase& golden) {
  if (golden.inputs.count("queue_image") == 0 && golden.inputs.count("queue_text") == 0 &&
      golden.inputs.count("queue_ids") == 0) {
    return std::nullopt;
  }
  const at::Tensor image_ids = input(golden, "queue_ids").to(at::kLong);
  return losses::QueueView{input(golden, "queue_image"), input(golden, "queue_text"), image_ids,
                           at::ones(image_ids.sizes(), at::kBool)};
}

double temperature_of(const GoldenCase& golden) {
  const auto temperature = golden.params.find("temperature");
  if (temperature == golden.params.end() || !temperature->is_number()) {
    fail("{}: params.temperature: expected a number, found {}", golden.name,
         temperature == golden.params.end() ? "none" : temperature->dump());
  }
  return temperature->get<double>();
}

at::Tensor temperature_tensor(const GoldenCase& golden) {
  return at::scalar_tensor(temperature_of(golden), at::kDouble);
}

at::Tensor ids(const GoldenCase& golden, const std::string& name) {
  return input(golden, name).to(at::kLong);
}

/// Embeddings are taken as they are given: no loss normalises.
GoldenResult itc(const GoldenCase& golden) {
  GoldenResult result;
  const at::Tensor image = leaf(golden, "image", result), text = leaf(golden, "text", result);
  SingleProcess single;
  result.outputs["loss"] = losses::itc_loss(image, text, ids(golden, "ids"), queue_of(golden),
                                            temperature_tensor(golden), queued_same_id(golden), single)
                               .mean();
  return result;
}

GoldenResult siglip(const GoldenCase& golden) {
  GoldenResult result;
  const at::Tensor image = leaf(golden, "image", result), text = leaf(golden, "text", result);
  const at::Tensor bias = leaf(golden, "bias", result);
  SingleProcess single;
  result.outputs["loss"] =
      losses::siglip_loss(image, text, ids(golden, "ids"), temperature_tensor(golden), bias, single).mean();
  return result;
}

GoldenResult itm_weights(const GoldenCase& golden) {
  SingleProcess single;
  const losses::NegativeWeights weights =
      losses::itm_weights(input(golden, "image"), input(golden, "text"), ids(golden, "ids"), queue_of(golden),
                          temperature_tensor(golden), single);
  return {{{"text_weights", weights.text_weights}, {"image_weights", weights.image_weights}}, {}};
}

GoldenResult maxsim(const GoldenCase& golden) {
  GoldenResult result;
  const at::Tensor patches = leaf(golden, "patches", result), tokens = leaf(golden, "tokens", result);
  const losses::MaxSimScores scores = losses::maxsim(patches, tokens, input(golden, "mask").to(at::kBool));
  result.outputs = {{"image_to_text", scores.image_to_text}, {"text_to_image", scores.text_to_image}};
  return result;
}

GoldenResult maxsim_loss(const GoldenCase& golden) {
  GoldenResult result;
  const at::Tensor patches = leaf(golden, "patches", result), tokens = leaf(golden, "tokens", result);
  SingleProcess single;
  result.outputs["loss"] =
      losses::maxsim_loss(patches, tokens, input(golden, "mask").to(at::kBool), ids(golden, "image_ids"),
                          ids(golden, "text_ids"), temperature_tensor(golden), single)
          .mean();
  return result;
}

}  // namespace

void add_loss_ops(GoldenOps& ops) {
  ops["itc"] = itc;
  ops["siglip"] = siglip;
  ops["itm_weights"] = itm_weights;
  ops["maxsim"] = maxsim;
  ops["maxsim_loss"] = maxsim_loss;
}

}  // namespace tessera::golden
