#include <ATen/ATen.h>

#include <optional>

#include "core/error.h"
#include "losses/itc.h"
#include "tests/golden_ops/golden_case.h"

namespace tessera::golden {

namespace {

at::Tensor input(const GoldenCase& golden, const std::string& name) {
  const auto found = golden.inputs.find(name);
  if (found == golden.inputs.end()) {
    fail("{}: in.{} is missing", golden.name, name);
  }
  return found->second;
}

SameId queued_same_id(const GoldenCase& golden) {
  const std::string name = golden.params.value("queued_same_id", "positive");
  if (name == "positive") {
    return SameId::kPositive;
  }
  if (name == "ignore") {
    return SameId::kIgnore;
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

/// Embeddings are taken as they are given: the loss does not normalise.
GoldenResult itc(const GoldenCase& golden) {
  const auto temperature = golden.params.find("temperature");
  if (temperature == golden.params.end() || !temperature->is_number()) {
    fail("{}: params.temperature: expected a number, found {}", golden.name,
         temperature == golden.params.end() ? "none" : temperature->dump());
  }
  GoldenResult result;
  const at::Tensor image = input(golden, "image").detach().clone().set_requires_grad(true);
  const at::Tensor text = input(golden, "text").detach().clone().set_requires_grad(true);
  result.leaves = {{"in.image", image}, {"in.text", text}};
  SingleProcess single;
  result.outputs["loss"] = losses::itc_loss(image, text, input(golden, "ids").to(at::kLong), queue_of(golden),
                                            at::scalar_tensor(temperature->get<double>(), at::kDouble),
                                            queued_same_id(golden), single)
                               .mean();
  return result;
}

}  // namespace

void add_loss_ops(GoldenOps& ops) { ops["itc"] = itc; }

}  // namespace tessera::golden
